"""Is the data what the published numbers were computed on? Frame lists made again, and a doctor for data folders."""
