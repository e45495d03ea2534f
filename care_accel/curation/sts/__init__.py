"""Sentence pairs for STS: rewrites of sentences with a term of a synonym table."""
