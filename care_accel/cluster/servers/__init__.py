"""Shards as inference servers, which a gateway asks without anything between: the lowest latency, and no Ray."""
