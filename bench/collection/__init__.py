"""Collections: indexing, opening, filters, and the same written by hand."""
