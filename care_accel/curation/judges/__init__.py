"""Judges: chat endpoints, prompts, rate limits, cost estimates, and the store of their answers."""
