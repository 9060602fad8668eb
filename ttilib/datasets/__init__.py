"""Datasets on disk: contents, images and masks, resize and pad."""
