"""Training data: files to rows, mined negatives, tables, batches."""
