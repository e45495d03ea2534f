"""Reads and analyses evaluation and benchmark results."""
