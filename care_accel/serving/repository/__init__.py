"""Writes model repositories and their configurations."""
