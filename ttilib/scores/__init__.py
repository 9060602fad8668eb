"""What came out, as numbers: metrics, rows on disk, tables."""
