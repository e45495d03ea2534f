"""Model folders and hub names to networks, tokenizers and specs."""
