"""Command line: ``care-accel gateway``, in front of one inference server or of those of all shards."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from care_accel.errors import CareError
from care_accel.serving.gateway import command as gateway


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the gateway to a parser."""
    gateway.add_arguments(parser)
    shards = parser.add_argument_group(
        "shards", "give --server once for each server that care-accel serve --shard started, in any order"
    )
    shards.add_argument(
        "--require-all",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="refuse searches while a shard does not answer; otherwise answers of the others say what share of the documents was "
        "searched; default: refuse",
    )


def run(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the requests in flight."""
    if len(options.server or ()) > 1:
        gateway.run(options, lambda servers, timeout: _connect(servers, timeout, options.require_all))
        return
    if not options.require_all:
        raise CareError("--no-require-all needs the servers of several shards: give --server for each")
    gateway.run(options)


def _connect(servers: Sequence[str], timeout: float, require_all: bool) -> Any:
    from care_accel.cluster.servers.client import ShardedClient

    return ShardedClient(servers, timeout=timeout, require_all=require_all)
