"""Base training of an encoder."""
