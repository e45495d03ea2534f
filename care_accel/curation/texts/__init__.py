"""Texts: cleaning, PII redaction, deduplication, containment, diversity selection, contamination check."""
