"""Exact search, and text to hits."""
