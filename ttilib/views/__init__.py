"""What came out, as pictures: figures, overlay videos, the episode browser."""
