"""Training data: rows from files, hard negative mining, tables, batches."""
