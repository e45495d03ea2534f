"""Documents from files, folders, data sets and standard input, row by row with where each came from."""

from care_accel.collection.sources.read import DocumentReader, read_documents

__all__ = ["DocumentReader", "read_documents"]
