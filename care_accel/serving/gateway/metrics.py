"""Prometheus metrics of the gateway."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

# Seconds; a query of a small model takes milliseconds, a batch of documents on a CPU seconds.
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

_NAMESPACE = "care_gateway"


class Metrics:
    """Metrics of one gateway, in a registry of their own, so that several can run in one process.

    Labels are known routes, methods and statuses, never client input.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()

        def counter(name: str, text: str, label: str, *labels: str) -> Counter:
            return Counter(name, text, (label, *labels), namespace=_NAMESPACE, registry=registry)

        self.requests = counter("requests", "Answered.", "route", "method", "status")
        self.rejected = counter("rejected", "Refused before any work.", "reason")
        self.texts = counter("texts", "Texts encoded or searched.", "route")
        self.tokens = counter("tokens", "Tokens of those texts.", "route")
        self.documents = counter("documents", "Documents that were written or deleted.", "outcome")
        self.seconds = Histogram(
            "request_seconds",
            "From the headers read to the response sent.",
            ("route",),
            buckets=_BUCKETS,
            namespace=_NAMESPACE,
            registry=registry,
        )
        self.in_flight = Gauge(
            "requests_in_flight",
            "Requests in work that encode, search, read or write documents.",
            namespace=_NAMESPACE,
            registry=registry,
        )
        self.bodies = Gauge(
            "bodies_arriving",
            "Requests whose bodies are being read; they hold no place yet.",
            namespace=_NAMESPACE,
            registry=registry,
        )
        self.writes_waiting = Gauge(
            "writes_waiting",
            "Writes that wait for those before them.",
            namespace=_NAMESPACE,
            registry=registry,
        )

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self._registry)
