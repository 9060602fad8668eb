"""From predicted masks to tables: metrics, rows, statistics."""
