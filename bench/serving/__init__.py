"""The inference server under load."""
