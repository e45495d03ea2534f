"""Judges: chat endpoints, how they are asked, what they cost, and every answer that they gave."""
