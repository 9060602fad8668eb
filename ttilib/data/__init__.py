"""Pictures and their labels: which classes, which episodes, which pixels."""
