"""Benchmarks: each folder has the suites of one part, and the programs that measure what no suite can."""
