"""Addresses of inference servers."""

from __future__ import annotations

import re
from typing import NamedTuple

from care_accel.errors import CareError

GRPC, HTTP = "grpc", "http"
_ADDRESS = re.compile(r"(?:(grpc|http)://)?(\[[0-9A-Fa-f:.]+\]|[^\s/:@]+):(\d{1,5})(/?)")


class Address(NamedTuple):
    """Where a server listens, and which protocol it speaks there.

    Attributes
    ----------
    scheme : {"grpc", "http"}
    host : str
        A name or an IP address; IPv6 in brackets.
    port : int
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def read(cls, address: str) -> Address:
        """Read ``"host:port"`` or ``"grpc://host:port"``, both for gRPC, or ``"http://host:port"``.

        Raises
        ------
        CareError
            It is neither.
        """
        match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
        if match is None or not 0 < int(match[3]) < 65_536 or (match[4] and match[1] is None):
            raise CareError(
                f"{address!r} is not an address of an inference server; give host and gRPC port, as in 'localhost:8001', "
                "or host and HTTP port, as in 'http://localhost:8000'"
            )
        return cls(match[1] or GRPC, match[2], int(match[3]))

    @property
    def authority(self) -> str:
        """Host and port."""
        return f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"http://{self.authority}" if self.scheme == HTTP else self.authority
