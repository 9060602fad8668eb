"""Figures: images with masks, curves, comparisons, videos."""
