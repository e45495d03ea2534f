"""Settings of the gateway: limits, bearer tokens and allowed host names."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from care_accel.errors import CareError, require_count

TOKEN_VARIABLE = "CARE_GATEWAY_TOKEN"
WRITE_TOKEN_VARIABLE = "CARE_GATEWAY_WRITE_TOKEN"
_MIN_TOKEN_CHARACTERS = 16
# Host names used by clients on the same machine.
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Settings:
    """Limits and access control of a gateway.

    Parameters
    ----------
    tokens : tuple of str
        Bearer tokens accepted for ``/v1`` and ``/metrics``; empty disables authentication.
    write_tokens : tuple of str
        Bearer tokens that may change documents too; empty if nothing can be written.
    hosts : frozenset of str
        Allowed names in the ``Host`` header, without a port; protects against DNS rebinding.
    max_body : int
        Maximum bytes of a request body.
    max_inputs : int
        Maximum texts per request; by default OpenAI's.
    max_text : int
        Maximum bytes of a text in UTF-8.
    max_documents : int
        Maximum documents of a write.
    max_k : int
        Maximum hits per query.
    max_hits : int
        Maximum hits per response, over all its queries.
    rate : float
        Sustained requests per second and caller; 0 for no limit. A caller is a token, or without authentication an
        address.
    burst : int
        Capacity of a caller's token bucket in requests.
    concurrency : int
        Maximum requests in flight, from when their bodies are there; further ones are rejected, not queued.
    timeout : float
        Timeout of the inference server in seconds, for each piece of a request that is sent in pieces.
    body_timeout : float
        Timeout for receiving a request body in seconds.
    log_texts : bool
        Log the texts of requests, which are patients' words.

    Raises
    ------
    CareError
        A limit is not a number above 0, or a token is too short, not printable ASCII, or meant for reading and writing.
    """

    tokens: tuple[str, ...] = field(default=(), repr=False)
    write_tokens: tuple[str, ...] = field(default=(), repr=False)
    hosts: frozenset[str] = LOCAL_NAMES
    max_body: int = 4 * 2**20
    max_inputs: int = 2048
    max_text: int = 100_000
    max_documents: int = 1000
    max_k: int = 1000
    max_hits: int = 10_000
    rate: float = 50.0
    burst: int = 100
    concurrency: int = 64
    timeout: float = 30.0
    body_timeout: float = 10.0
    log_texts: bool = False

    def __post_init__(self) -> None:
        for name in (
            *("max_body", "max_inputs", "max_text", "max_documents", "max_k", "max_hits"),
            *("burst", "concurrency"),
        ):
            require_count(name, getattr(self, name))
        for name in ("timeout", "body_timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise CareError(f"{name} is {getattr(self, name)!r}; it must be a number of seconds above 0")
        if not 0 <= self.rate < math.inf:
            raise CareError(
                f"rate is {self.rate!r}; it must be a number of requests per second, 0 for no limit"
            )
        if set(self.tokens) & set(self.write_tokens):
            raise CareError(
                "a token is given for reading and for writing; generate one of its own for writing"
            )
        for token in self.tokens + self.write_tokens:
            # Error messages never contain a token.
            if len(token) < _MIN_TOKEN_CHARACTERS:
                raise CareError(
                    f"a gateway token has {len(token)} characters; use {_MIN_TOKEN_CHARACTERS} or more "
                    "(generate one with openssl rand -hex 32)"
                )
            if not all("!" <= character <= "~" for character in token):
                raise CareError("a gateway token contains a space or a non-ASCII character; use another")


def read_tokens(
    file: Path | None,
    environment: Mapping[str, str] = os.environ,
    *,
    variable: str = TOKEN_VARIABLE,
    option: str = "--token-file",
) -> tuple[str, ...]:
    """Read the bearer tokens from a file or from the environment; a command line would expose them.

    Parameters
    ----------
    file : Path, optional
        One token per line, so that tokens can be rotated; ``#`` starts a comment.
    environment : mapping
    variable : str
        Name of the token in the environment.
    option : str
        Names the file in messages.

    Raises
    ------
    CareError
        The file cannot be read or has no token, or the variable is set but empty.
    """
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as cause:
            why = cause.strerror if isinstance(cause, OSError) else "is not UTF-8"
            raise CareError(f"{option} {file}: cannot be read: {why}") from None
        tokens = tuple(line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))
        if not tokens:
            raise CareError(f"{option} {file}: has no token; write one per line")
        return tokens
    if (token := environment.get(variable)) is None:
        return ()
    if not token.strip():
        raise CareError(f"{variable} is set but empty; give it a token, or unset it")
    return (token.strip(),)
