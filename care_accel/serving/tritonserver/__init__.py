"""NVIDIA's `tritonserver`: found, started, supervised and stopped."""
