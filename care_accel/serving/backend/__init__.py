"""Shared code of the Python backend models."""
