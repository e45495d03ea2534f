// Sphinx cuts a query at spaces, which Chinese does not have: cut it into words, as the index was.
