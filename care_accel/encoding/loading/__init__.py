"""Loads networks, tokenizers and specs from model folders and hub names."""
