"""The encoder: architectures, checkpoints, and training on base classes."""
