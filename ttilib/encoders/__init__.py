"""Feature extractors: architectures, checkpoints, intermediate layers, and a cache of features."""
