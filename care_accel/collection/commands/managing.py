"""Command line: ``care-accel collection info|versions|compact|verify|index|estimate``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_accel.collection.commands import estimating
from care_accel.collection.commands.options import add_collection, open_collection
from care_accel.errors import CareError
from care_accel.files import read_lines

if TYPE_CHECKING:
    from care_accel.collection import Collection


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verbs and their options to a parser."""
    verbs = parser.add_subparsers(dest="collection_verb", required=True, metavar="verb")
    texts = {
        "info": "sizes, version, model and fields",
        "versions": "number, time and chunks of every version",
        "compact": "merge small files, drop what was deleted, remove old versions",
        "verify": "check that every document is there once and whole, and the index as the table",
        "index": "choose how it is searched: exactly, or approximately with a recall where that is faster here",
    }
    made = {}
    for name, text in texts.items():
        made[name] = verbs.add_parser(name, help=text, description=text)
        add_collection(made[name], positional=True)
    text = "memory, disk, hours of encoding, commits and network of a collection that is planned"
    estimating.add_arguments(verbs.add_parser("estimate", help=text, description=text))
    for name in ("info", "versions", "verify"):
        made[name].add_argument("--json", action="store_true", help="for programs")
    made["compact"].add_argument(
        "--keep-days",
        type=float,
        default=7.0,
        metavar="N",
        help="keep versions, and with them the texts of deleted documents, so long; 0 only while nobody writes; default: "
        "%(default)g",
    )
    made["verify"].add_argument(
        "--encode", type=int, default=0, metavar="N", help="encode so many documents again and compare"
    )
    made["verify"].add_argument(
        "--orphans",
        type=float,
        nargs="?",
        const=1.0,
        metavar="HOURS",
        help="remove files that writers left behind that were killed, older than so many hours; default: 1",
    )
    made["index"].add_argument(
        "--recall",
        type=_recall,
        metavar="R",
        help="the least share of the best hits that is found, such as 0.99, or exact; default: show what was chosen",
    )
    made["index"].add_argument(
        "--again",
        action="store_true",
        help="choose again as before, for the documents that are there now; who has it open goes on meanwhile",
    )
    made["index"].add_argument(
        "-k",
        type=int,
        metavar="N",
        help="for so many hits; a search for more is exact; default: 10",
    )
    made["index"].add_argument(
        "--queries", type=Path, metavar="FILE", help="real queries, one a line; default: made from documents"
    )
    made["index"].add_argument("--memory", metavar="SIZE", help="what it may take besides, such as '2 GB'")
    made["index"].add_argument(
        "--budget", metavar="TIME", help="about how long it may take, such as '30 s'; default: 5 min"
    )


def _recall(value: str) -> float | str:
    if value == "exact":
        return value
    try:
        return float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is neither a number, such as 0.99, nor exact") from None


def run(options: argparse.Namespace) -> None:
    """Run a verb."""
    if options.collection_verb == "estimate":
        estimating.run(options)
        return
    verbs = {
        "info": _info,
        "versions": _versions,
        "compact": _compact,
        "verify": _verify,
        "index": _choose_index,
    }
    more = {"index": "stored"} if options.collection_verb == "index" else {}
    verbs[options.collection_verb](open_collection(options, **more), options)


def _info(collection: Collection, options: argparse.Namespace) -> None:
    values = collection.info()
    if options.json:
        _print_json(values)
        return
    if values["chunk_tokens"]:
        values["chunking"] = f"{values['chunk_tokens']} tokens, overlap {values['chunk_overlap']}"
    for name in ("chunk_tokens", "chunk_overlap"):
        del values[name]
    values["fields"] = ", ".join(f"{name} ({kind})" for name, kind in values["fields"].items()) or "none"
    for name, value in values.items():
        if name.endswith("_bytes") and value is not None:
            value = f"{value / 1e6:,.1f} MB"
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, int) and name not in ("width", "version"):
            value = f"{value:,}"
        print(f"{name.removesuffix('_bytes').replace('_', ' '):<16} {value}")


def _versions(collection: Collection, options: argparse.Namespace) -> None:
    found = collection.versions()
    if options.json:
        _print_json([entry | {"time": entry["time"].isoformat()} for entry in found])
        return
    for entry in found:
        print(f"{entry['version']:>6}  {entry['time']:%Y-%m-%d %H:%M:%S}  {entry['rows']:,} chunks")


def _compact(collection: Collection, options: argparse.Namespace) -> None:
    before = _bytes(collection)
    collection.compact(keep_days=options.keep_days)
    print(
        f"{before / 1e6:,.1f} MB -> {_bytes(collection) / 1e6:,.1f} MB; {len(collection.versions())} versions are left"
    )


def _bytes(collection: Collection) -> int:
    values = collection.info()
    return int(values["table_bytes"] or 0) + int(values["index_bytes"])


def _verify(collection: Collection, options: argparse.Namespace) -> None:
    found = collection.verify(encode=options.encode)
    left = None
    if options.orphans is not None:
        from care_accel.collection.storage.orphans import remove_orphans
        from care_accel.collection.storage.table import Table

        table = Table.open(collection.uri, storage_options=collection.storage_options)
        left = remove_orphans(table, older_than=3600 * options.orphans)
    if options.json:
        _print_json(vars(found) | ({} if left is None else {"orphans": vars(left)}))
    else:
        again = f", {found.encoded:,} encoded again" if options.encode else ""
        print(f"{found.documents:,} documents, {found.chunks:,} chunks, version {collection.version}{again}")
        if left is not None:
            young = f"; {left.young:,} younger ones stay" if left.young else ""
            print(f"{left.removed:,} orphaned files removed, {left.bytes / 1e6:,.1f} MB{young}")
    if not found.ok:
        raise CareError(
            f"{collection.uri}: {'; '.join(found.problems)}; index the documents again, or open an earlier version"
        )


def _choose_index(collection: Collection, options: argparse.Namespace) -> None:
    given = {
        name: value for name in ("k", "memory", "budget") if (value := getattr(options, name)) is not None
    }
    if options.again and (given or options.recall is not None):
        raise CareError(
            "--again takes recall, k, memory and budget that were asked for before; give it alone or with --queries"
        )
    if options.recall in (None, "exact") and not options.again and (given or options.queries):
        raise CareError("-k, --queries, --memory and --budget need --recall with a number")
    if options.recall == "exact":
        collection.forget_index()
        print(f"{collection.uri}: every search is an exact scan")
        return
    queries = _queries(options.queries) if options.queries else None
    if options.again:
        collection.rebuild_index(queries=queries, show_progress=True)
    elif options.recall is not None:
        collection.choose_index(options.recall, **given, queries=queries, show_progress=True)
    print(f"{collection.uri}: {collection.explain()}")
    if collection.choice is not None:
        print(collection.choice.text())
    if not collection.is_kept:  # the log has said why
        raise CareError(f"{collection.uri}: the choice could not be saved, so that no other program has it")


def _queries(file: Path) -> list[str]:
    """Return the queries of a file."""
    queries = [line.strip() for _, line in read_lines(file)]
    if queries and queries[0].startswith("{") and queries[0].endswith("}"):
        raise CareError(f"{file}: has objects of JSON, not queries; write a query a line (jq -r .text)")
    return queries


def _print_json(values: Any) -> None:
    print(json.dumps(values, ensure_ascii=False, indent=2))
