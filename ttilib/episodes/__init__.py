"""Benchmarks, the order in which episodes are sampled, and the clips that episodes name."""
