"""Checks of the data on disk."""
