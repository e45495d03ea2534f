"""Prometheus metrics of a router."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from care_accel.cluster.shards.calls import ShardAway, ShardFailed
from care_accel.errors import CareError

if TYPE_CHECKING:
    from care_accel.cluster.shards.serving import ShardedCollection

# Seconds; a scan of a small shard takes milliseconds.
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_NAMESPACE = "care_router"


@dataclass
class Counted:
    """A request that is counted: its texts, and the share of the documents that were searched."""

    texts: int = 0
    share: float = 1.0


class Metrics:
    """Metrics of one router, in a registry of their own.

    Labels are the models that it serves, and outcomes: ``whole``, ``partial``, ``refused`` while a shard is away, ``invalid`` for a
    mistake of the sender, ``failed``.

    Parameters
    ----------
    searched : ShardedCollection

    Attributes
    ----------
    requests, texts : prometheus_client.Counter
        By model and outcome.
    seconds : prometheus_client.Histogram
        By model.
    """

    def __init__(self, searched: ShardedCollection) -> None:
        # It comes with ray[serve].
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = CollectorRegistry()
        own: dict[str, Any] = {"namespace": _NAMESPACE, "registry": self._registry}
        labels = ("model", "outcome")
        self.requests = Counter("requests", "Answered, or refused.", labels, **own)
        self.texts = Counter("texts", "Texts of those requests.", labels, **own)
        self.seconds = Histogram(
            "request_seconds", "From the request read to the answer.", ("model",), buckets=_BUCKETS, **own
        )
        Gauge("shards", "Shards of the collection.", **own).set(searched.shards)
        Gauge("shards_away", "Shards that do not answer.", **own).set_function(lambda: len(searched.away))
        Gauge("version", "Version of the collection that is searched.", **own).set_function(
            lambda: searched.version
        )

    @contextmanager
    def timed(self, model: str) -> Iterator[Counted]:
        """Count a request, and how it ends; yield where its texts and its share are put."""
        counted, outcome = Counted(), "failed"
        begun = perf_counter()
        try:
            yield counted
            outcome = "whole" if counted.share >= 1 else "partial"
        except ShardAway:
            outcome = "refused"
            raise
        except ShardFailed:
            raise
        except CareError:
            outcome = "invalid"
            raise
        finally:
            self.seconds.labels(model).observe(perf_counter() - begun)
            self.requests.labels(model, outcome).inc()
            self.texts.labels(model, outcome).inc(counted.texts)

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)

    @contextmanager
    def serve(self, host: str, port: int) -> Iterator[str]:
        """Answer ``GET /metrics`` in a thread until the end of the context; yield the URL.

        Raises
        ------
        CareError
            The port is taken.
        """
        from prometheus_client import start_http_server

        try:
            server, thread = start_http_server(port, host, self._registry)
        except OSError as cause:
            raise CareError(
                f"metrics cannot be served on {host}:{port}: {cause.strerror}; choose another --metrics-port"
            ) from None
        try:
            yield f"http://{host}:{server.server_port}/metrics"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
