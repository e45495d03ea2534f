"""Options that the command lines of collections share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from care_accel.collection import Collection


def add_collection(parser: argparse.ArgumentParser, *, positional: bool = False) -> None:
    """Add the collection, as an option or as an argument, and where its model and its index are."""
    name = "collection" if positional else "--collection"
    required: dict[str, Any] = {} if positional else {"required": True}
    parser.add_argument(
        name,
        metavar="COLLECTION",
        help="folder of the collection, or its address in an object store",
        **required,
    )
    parser.add_argument("--model", help="the collection's model where it has moved: a folder or a name")
    parser.add_argument(
        "--index-dir",
        type=Path,
        metavar="DIR",
        help="folder of the derived index; default: index in the collection's folder",
    )


def open_collection(options: argparse.Namespace, **more: Any) -> Collection:
    """Open the collection of the options."""
    from care_accel.collection import Collection

    return Collection.open(options.collection, model=options.model, index_dir=options.index_dir, **more)
