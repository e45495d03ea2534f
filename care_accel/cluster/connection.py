"""Connection to a Ray cluster, and its errors in one line."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic

from care_accel.errors import CareError

_CONNECT_SECONDS = 5.0
# Ray ends the process, with pages of its logs, when the head has been away for 60 seconds.
_HEAD_SECONDS = 40.0


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Use the cluster at an address, ``"auto"`` or ``host:port``, or the one that is used already.

    Raises
    ------
    CareError
        None answers there.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            with socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS):
                pass
        except (OSError, ValueError) as cause:
            raise CareError(
                f"no Ray cluster answers at {address} ({cause}); start its head with ray start --head, and give HOST:PORT"
            ) from None
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as cause:
        raise CareError(
            f"no Ray cluster can be used at {address}: {first_line(cause)}; start its head with ray start --head"
        ) from None
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's own ends the process, with a trace of its stack
    try:
        yield
    finally:
        with suppress(Exception):  # of a head that is gone
            ray.shutdown()


class Head:
    """The head of a cluster, which may die: calls that ask it would wait for it, and then end the process.

    Parameters
    ----------
    address : str
        ``host:port``.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._heard = monotonic()

    def answers(self) -> bool:
        """Return whether the head answers now.

        Raises
        ------
        CareError
            It has not for 40 seconds.
        """
        host, _, port = self._address.rpartition(":")
        try:
            with socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS):
                self._heard = monotonic()
                return True
        except OSError as cause:
            away = monotonic() - self._heard
            if away > _HEAD_SECONDS:
                raise CareError(
                    f"the head of the Ray cluster at {self._address} has not answered for {away:.0f} s ({cause}); start it, and run "
                    "the same command again"
                ) from None
            return False


def first_line(cause: BaseException) -> str:
    """Return the first line of an error's message, cut at 300 characters; the error's name if it has none."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(cause).__name__
