"""Endpoint policy: which endpoints are local, and an HTTP client that sends texts to no other host."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from care_accel.curation.config import JudgeConfig, Judging
from care_accel.errors import CareError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# Loopback and private networks (RFC 1918, RFC 4193, link-local). Python's is_private covers more than these.
_LOCAL = [
    ipaddress.ip_network(network)
    for network in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
]


def is_local(base_url: str) -> bool:
    """Return whether an endpoint is on this machine or its private network.

    A host name is resolved; it is local if all its addresses are. An unresolvable name is not.
    """
    host = urlsplit(base_url).hostname or ""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)}
    except (OSError, UnicodeError):
        return False
    addresses = [ipaddress.ip_address(address.partition("%")[0]) for address in found]
    plain = [getattr(address, "ipv4_mapped", None) or address for address in addresses]
    return bool(plain) and all(any(address in network for network in _LOCAL) for address in plain)


def check_endpoints(judges: list[JudgeConfig], judging: Judging) -> None:
    """Reject a configuration that would send texts to a disallowed endpoint.

    Raises
    ------
    CareError
        No judge is configured, or one is remote and that is not allowed or redaction is off.
    """
    if not judges:
        raise CareError("no judge is configured; list at least one under judges")
    for judge in judges:
        if is_local(judge.base_url):
            continue
        if not judging.remote:
            raise CareError(
                f"judge {judge.name!r}: {judge.base_url} is outside this machine and its private network; "
                "set judging: remote: true to allow texts to leave it"
            )
        if not judging.redact:
            raise CareError(
                f"judge {judge.name!r}: {judge.base_url} is remote; judging: redact: false is for local endpoints only"
            )


def api_key(judge: JudgeConfig) -> str:
    """Return the API key of an endpoint from the environment; a placeholder if it needs none.

    Raises
    ------
    CareError
        The variable is not set.
    """
    if judge.key is None:
        return "none"
    value = os.environ.get(judge.key, "").strip()
    if not value:
        raise CareError(
            f"judge {judge.name!r}: environment variable {judge.key} is not set; export the API key under that name"
        )
    return value


def make_client(judge: JudgeConfig) -> AsyncOpenAI:
    """Return a client of an endpoint: no retries of its own, no redirects, and no proxy for a local one."""
    try:
        import openai
    except ImportError:
        raise CareError("judges need the package openai: pip install 'care-accel[curate]'") from None
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
        # Below WARNING they log texts, URLs and headers.
        logging.getLogger(name).setLevel(logging.WARNING)
    # Redirects and proxies from the environment would send texts to hosts that were not checked.
    # CA certificates from the environment are trusted: a hospital's endpoints may use its own CA.
    direct = dict.fromkeys(("http://", "https://", "all://")) if is_local(judge.base_url) else None
    http = openai.DefaultAsyncHttpxClient(follow_redirects=False, mounts=direct)
    return openai.AsyncOpenAI(
        api_key=api_key(judge),
        base_url=judge.base_url,
        timeout=judge.timeout,
        max_retries=0,
        http_client=http,
    )
