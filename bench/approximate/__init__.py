"""Approximate search, and peers tuned by hand."""
