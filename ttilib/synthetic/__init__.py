"""The synthetic dataset: `generate(root)` writes twelve classes of objects in about a hundred videos and images."""

from ttilib.synthetic.dataset import generate

__all__ = ["generate"]
