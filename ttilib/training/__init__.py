"""Base training: what is minimised, how, on how many processes, and what is kept of it."""
