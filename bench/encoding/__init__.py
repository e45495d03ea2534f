"""The encoders: networks, pooling, accuracy beside latency."""
