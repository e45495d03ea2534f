"""Where texts may go: which endpoints are local, and how a client is made that sends them nowhere else."""

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

# This machine and private networks (RFC 1918, RFC 4193, link-local). Python's is_private holds more than that.
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
    """Tell whether an endpoint is on this machine or its private network.

    A name is looked up; it is local if every address that it has is. A name without an address is not.
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
    """Refuse what would send texts out, before any is sent.

    Raises
    ------
    CareError
        There is no judge; one is outside and that is not allowed, or is to see personal data.
    """
    if not judges:
        raise CareError("the configuration names no judge; list at least one under judges")
    for judge in judges:
        if is_local(judge.base_url):
            continue
        if not judging.remote:
            raise CareError(
                f"judge {judge.name!r}: {judge.base_url} is outside this machine and its private network; texts would "
                "leave it. Set judging: remote: true if they may"
            )
        if not judging.redact:
            raise CareError(
                f"judge {judge.name!r}: {judge.base_url} is outside; judging: redact: false is for local endpoints only"
            )


def api_key(judge: JudgeConfig) -> str:
    """Return the key of an endpoint from the environment; a word that is none where it needs no key.

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
            f"judge {judge.name!r}: the environment has no {judge.key}; export the key under that name"
        )
    return value


def make_client(judge: JudgeConfig) -> AsyncOpenAI:
    """Return a client of an endpoint: no tries of its own, no redirects, and no proxy for a local one."""
    try:
        import openai
    except ImportError:
        raise CareError("judges need the package openai: pip install 'care-accel[curate]'") from None
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
        # At their lower levels they write texts, addresses and headers.
        logging.getLogger(name).setLevel(logging.WARNING)
    # A redirect would take texts where nobody looked whether they may go; so would a proxy out of the environment.
    # Certificates out of it are trusted: a hospital's own endpoints have its own.
    direct = dict.fromkeys(("http://", "https://", "all://")) if is_local(judge.base_url) else None
    http = openai.DefaultAsyncHttpxClient(follow_redirects=False, mounts=direct)
    return openai.AsyncOpenAI(
        api_key=api_key(judge),
        base_url=judge.base_url,
        timeout=judge.timeout,
        max_retries=0,
        http_client=http,
    )
