"""BM25 over documents that change: grams, postings, parts, files."""
