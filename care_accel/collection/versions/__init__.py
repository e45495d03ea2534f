"""One version of a collection: its index and rows, derived from the table, and search on them."""
