"""Curation of training data: hard negatives, and how it scales."""
