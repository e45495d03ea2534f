"""Statistics of scores: confidence intervals, significance tests, comparison of two runs."""
