"""Command line: ``care-accel delete``."""

from __future__ import annotations

import argparse
from pathlib import Path

from care_accel.collection.commands.options import add_collection, open_collection
from care_accel.errors import CareError
from care_accel.files import read_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    parser.add_argument("ids", nargs="*", metavar="ID", help="ids of documents; unknown ones are fine")
    add_collection(parser)
    parser.add_argument("--ids", type=Path, dest="file", metavar="FILE", help="a file with one id a line")
    parser.add_argument(
        "--filter", metavar="EXPR", help='delete the documents that this leaves, such as "year < 2010"'
    )
    parser.add_argument("--dry-run", action="store_true", help="count the documents, and delete none")


def run(options: argparse.Namespace) -> None:
    """Delete documents and print how many."""
    if sum(map(bool, (options.ids, options.file, options.filter))) != 1:
        raise CareError("give one of these: ids, --ids FILE or --filter EXPR")
    collection = open_collection(options)
    ids: list[str] = options.ids or []
    if options.file:
        ids = [line.strip() for _, line in read_lines(options.file)]
    if options.dry_run:
        count = (
            collection.count(options.filter)
            if options.filter
            else sum(r is not None for r in collection.get(ids))
        )
        print(f"{count:,} of {len(collection):,} documents would be deleted")
        return
    deleted = collection.delete(None if options.filter else ids, filter=options.filter)
    print(f"{deleted:,} documents deleted; {len(collection):,} are left, version {collection.version}")
