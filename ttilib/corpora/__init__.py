"""The data sets: how each keeps its pictures and labels, and by which rules they are laid and varied."""
