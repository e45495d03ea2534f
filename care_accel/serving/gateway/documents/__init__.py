"""Routes that read, write and delete documents of a collection."""
