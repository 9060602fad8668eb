"""The synthetic dataset: `generate(root)` writes twelve object classes in 96 videos and 264 images."""

from ttilib.synthetic.dataset import generate

__all__ = ["generate"]
