"""Command line: ``care-accel collection estimate``."""

from __future__ import annotations

import argparse
import dataclasses
import json

from care_accel.collection import estimate as estimates


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    size = parser.add_argument_group("size")
    size.add_argument("--documents", type=float, required=True, metavar="N", help="such as 1e8")
    size.add_argument("--width", type=int, required=True, metavar="N", help="values of a vector")
    size.add_argument(
        "--tokens-per-document", type=float, default=350, metavar="N", help="default: %(default)g"
    )
    size.add_argument(
        "--chunks-per-document", type=float, default=1, metavar="N", help="vectors; default: %(default)g"
    )
    size.add_argument(
        "--bytes-per-document",
        type=float,
        metavar="N",
        help="of text and fields; default: 3 a token, as of Chinese text",
    )
    speed = parser.add_argument_group("encoding")
    speed.add_argument(
        "--model-tokens-per-second", type=float, metavar="N", help="of one worker, as measured by index"
    )
    speed.add_argument(
        "--model-parameters",
        type=float,
        metavar="N",
        help="instead: of the document network, such as 4e9; its speed on an H200 by arithmetic",
    )
    speed.add_argument("--workers", type=int, default=1, metavar="N", help="default: %(default)s")
    search = parser.add_argument_group("search")
    search.add_argument("--shards", type=int, default=1, metavar="N", help="default: %(default)s")
    search.add_argument(
        "--memory-bandwidth",
        type=float,
        metavar="GB",
        help="of a shard's machine, in GB a second: the time of a scan",
    )
    search.add_argument("-k", type=int, default=10, metavar="N", help="hits of a query; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--constants",
        action="store_true",
        help="show the constants of the arithmetic too, with their sources",
    )


def run(options: argparse.Namespace) -> None:
    """Print the estimate."""
    bandwidth = options.memory_bandwidth
    found = estimates.estimate(
        options.documents,
        options.width,
        tokens_per_document=options.tokens_per_document,
        chunks_per_document=options.chunks_per_document,
        bytes_per_document=options.bytes_per_document,
        shards=options.shards,
        workers=options.workers,
        model_parameters=options.model_parameters,
        model_tokens_per_second=options.model_tokens_per_second,
        memory_bandwidth=None if bandwidth is None else 1e9 * bandwidth,
        k=options.k,
    )
    if options.json:
        values = dataclasses.asdict(found)
        if options.constants:
            values["constants"] = {name: one._asdict() for name, one in estimates.CONSTANTS.items()}
        print(json.dumps(values, indent=2))
        return
    for name, text in estimates.lines(found):
        print(f"{name:<26} {text}")
    if options.constants:
        print()
        for name, constant in estimates.CONSTANTS.items():
            print(f"{name.replace('_', ' '):<34} {constant.value:<12g} {constant.source}")
