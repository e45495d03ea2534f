"""What both clients of an inference server share: limits, attempts, and descriptions of the server's models."""

from __future__ import annotations

from typing import Any

from care_accel.encoding.runtimes.attempts import Attempts, checked_limits
from care_accel.encoding.runtimes.server_descriptions import ServedEncoder, ServedSearch
from care_accel.encoding.runtimes.transports import Address, tritonclient_module
from care_accel.encoding.spec import Role
from care_accel.errors import CareError


class BaseClient:
    """Base of both clients: limits, and cached descriptions of the server's models."""

    def __init__(self, address: str, timeout: float, retries: int, in_flight: int) -> None:
        checked_limits(timeout, retries, in_flight)
        self._address = Address.read(address)
        self.address = str(self._address)
        self.timeout = timeout
        self.retries = retries
        self.in_flight = in_flight
        self._encoders: dict[Role, ServedEncoder] = {}
        self._search: ServedSearch | None = None
        self._reached = False
        self._error = tritonclient_module("tritonclient.utils").InferenceServerException

    def _attempts(self, model: str) -> Attempts:
        return Attempts(self.address, model, self.timeout, self.retries, self._reached)

    def _pause(self, attempts: Attempts, error: Any) -> float:
        if error.status() == "StatusCode.UNAVAILABLE":
            self._encoders = {}  # a restarted server may serve other models
        return attempts.pause(error)

    def _require_same(self, before: ServedEncoder, after: ServedEncoder) -> None:
        if before != after:
            raise CareError(
                f"{self.address}: switched to another {before.role} encoder during the request "
                f"({before.revision}, now {after.revision}); encode the texts again"
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"


def close_all(opened: list[Any]) -> None:
    """Close connections."""
    while opened:
        opened.pop().close()
