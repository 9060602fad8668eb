"""Datasets on disk: what each contains, how its images and masks are read, how they are resized and padded."""
