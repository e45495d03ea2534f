"""Texts: cleaning, redaction, duplicates, containment, diversity, leaks."""
