"""Statistics of scores: intervals, significance, and the comparison of two runs."""
