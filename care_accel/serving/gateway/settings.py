"""What a gateway permits: its limits, who may call it, and by which names."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from care_accel.errors import CareError, require_count

TOKEN_VARIABLE = "CARE_GATEWAY_TOKEN"
_SHORTEST_TOKEN = 16
# By these names a browser or a program on the same machine calls it.
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Settings:
    """The limits of a gateway.

    Parameters
    ----------
    tokens : tuple of str
        Bearer tokens, any of which opens ``/v1`` and ``/metrics``; none asks for none.
    hosts : frozenset of str
        Names that a request's ``Host`` may carry, without a port; a page of another origin that points
        its own name at this machine (DNS rebinding) is refused by it.
    max_body : int
        Bytes of a request.
    max_inputs : int
        Texts of a request.
    max_text : int
        Bytes of a text in UTF-8.
    max_k : int
        Hits a query.
    max_hits : int
        Hits of a response, all its queries together.
    rate : float
        Requests a second that a caller may go on making; 0 is no limit. A caller is a token, or an
        address where no tokens are asked for.
    burst : int
        Requests that a caller may make at once after a rest.
    concurrency : int
        Requests in work at once; another one is refused, not queued.
    timeout : float
        Seconds in which the inference server has to answer.
    body_timeout : float
        Seconds in which a request's body has to arrive.
    log_texts : bool
        Write the texts of requests to the log: they are patients' words.

    Raises
    ------
    CareError
        A limit that is no number above 0, or a token that is too short or no header can carry.
    """

    tokens: tuple[str, ...] = field(default=(), repr=False)
    hosts: frozenset[str] = LOCAL_NAMES
    max_body: int = 4 * 2**20
    max_inputs: int = 256
    max_text: int = 100_000
    max_k: int = 1000
    max_hits: int = 10_000
    rate: float = 50.0
    burst: int = 100
    concurrency: int = 64
    timeout: float = 30.0
    body_timeout: float = 10.0
    log_texts: bool = False

    def __post_init__(self) -> None:
        for name in ("max_body", "max_inputs", "max_text", "max_k", "max_hits", "burst", "concurrency"):
            require_count(name, getattr(self, name))
        for name in ("timeout", "body_timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise CareError(f"{name} is {getattr(self, name)!r}; it must be a number of seconds above 0")
        if not 0 <= self.rate < math.inf:
            raise CareError(
                f"rate is {self.rate!r}; it must be a number of requests a second, 0 for no limit"
            )
        for token in self.tokens:
            # The token itself stays out of the message.
            if len(token) < _SHORTEST_TOKEN:
                raise CareError(
                    f"a gateway token has {len(token)} characters; it needs {_SHORTEST_TOKEN} or more "
                    "(openssl rand -hex 32 makes one)"
                )
            if not all("!" <= character <= "~" for character in token):
                raise CareError(
                    "a gateway token holds a space or a character that is not ASCII; make another"
                )


def read_tokens(file: Path | None, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the bearer tokens: a file's lines, or the environment's one; no command line carries them.

    Parameters
    ----------
    file : Path, optional
        A token a line, so that an old one and a new one can both be valid for a while; ``#`` begins a comment.
    environment : mapping

    Raises
    ------
    CareError
        The file cannot be read or holds no token, or the variable is there and empty.
    """
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as cause:
            why = cause.strerror if isinstance(cause, OSError) else "is not UTF-8"
            raise CareError(f"--token-file {file}: cannot be read: {why}") from None
        tokens = tuple(line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))
        if not tokens:
            raise CareError(f"--token-file {file}: holds no token; write one a line")
        return tokens
    if (token := environment.get(TOKEN_VARIABLE)) is None:
        return ()
    if not token.strip():
        raise CareError(f"{TOKEN_VARIABLE} is set but empty; give it a token, or unset it")
    return (token.strip(),)
