"""Data sets as people have them: where their files lie, and the formats of their rows."""
