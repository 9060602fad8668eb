"""Notebooks as tasks on one machine or many: the study and the tables."""
