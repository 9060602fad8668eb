"""The embedded corpus: a small made-up world, filmed on the spot and stored like the real benchmarks.

`generate(root)` writes twelve kinds of things in some hundred videos and stills, once, in under a minute.
"""

from ttilib.mini.corpus import generate

__all__ = ["generate"]
