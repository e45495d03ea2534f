"""The truth: the table of documents, what it records of itself, and the rows that may go in."""
