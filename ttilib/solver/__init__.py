"""Transductive inference: the task, the classifier, the objective, its optimization, and the methods by name."""
