"""Results: what the evaluation and the benchmarks wrote, read and analysed."""
