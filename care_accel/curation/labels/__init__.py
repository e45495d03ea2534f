"""Labels: candidates are pooled, judged and voted on; agreement, expert samples, missing positives."""
