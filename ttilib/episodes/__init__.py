"""Benchmarks, the sampling of episodes, and their clips."""
