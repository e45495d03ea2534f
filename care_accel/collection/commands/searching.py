"""Command line: ``care-accel search``."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from care_accel.collection.commands.options import add_collection, open_collection
from care_accel.errors import CareError

if TYPE_CHECKING:
    from care_accel.retriever import Hit

# Lines of standard input that are encoded together.
_BATCH = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    parser.add_argument(
        "queries", nargs="*", metavar="QUERY", help="without any, lines of standard input are read"
    )
    add_collection(parser)
    parser.add_argument("-k", type=int, default=10, metavar="N", help="hits of a query; default: %(default)s")
    parser.add_argument(
        "--filter",
        metavar="EXPR",
        help="only documents that this leaves, such as \"department = '儿科' AND year >= 2020\"",
    )
    parser.add_argument(
        "--chunks", action="store_true", help="show each matching chunk, instead of each document once"
    )
    parser.add_argument(
        "--exact", action="store_true", help="an exact scan, whatever care-accel collection index has chosen"
    )
    parser.add_argument("--version", type=int, metavar="N", help="search an earlier version")
    parser.add_argument(
        "--json",
        action="store_true",
        help="one line of JSON a query: query, hits with id, score, document and span",
    )


def run(options: argparse.Namespace) -> None:
    """Search and print the hits."""
    how = "exact" if options.exact else "stored"
    collection = open_collection(options, version=options.version, index=how)
    if options.filter is not None:
        collection.searcher().mask(options.filter)
    several = len(options.queries) != 1
    ascii_only = "utf" not in (sys.stdout.encoding or "utf-8").lower()
    for batch in _batches(options.queries):
        found = collection.search(batch, options.k, filter=options.filter, group=not options.chunks)
        for query, hits in zip(batch, found, strict=True):
            if options.json:
                line = json.dumps(_as_json(query, hits), ensure_ascii=ascii_only, default=_plain)
                print(line, flush=True)
            else:
                _show(query, hits, with_query=several)


def _batches(queries: Sequence[str]) -> Iterator[list[str]]:
    if queries:
        yield list(queries)
        return
    if sys.stdin.isatty():
        print("queries, one a line; Ctrl-D ends", file=sys.stderr)
    waiting: list[str] = []
    try:
        for line in sys.stdin:
            if text := line.strip():
                waiting.append(text)
            if waiting and (sys.stdin.isatty() or len(waiting) >= _BATCH):
                yield waiting
                waiting = []
    except UnicodeDecodeError:
        raise CareError("standard input is not UTF-8; convert it (iconv -t UTF-8)") from None
    if waiting:
        yield waiting


def _as_json(query: str, hits: Sequence[Hit]) -> dict[str, Any]:
    rows = [{"id": hit.id, "score": hit.score, "document": hit.document} for hit in hits]
    for row, hit in zip(rows, hits, strict=True):
        if hit.span is not None:
            row["span"] = list(hit.span)
    return {"query": query, "hits": rows}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _show(query: str, hits: Sequence[Hit], *, with_query: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    from care_accel.collection.commands.snippet import one_line, snippet

    console = Console(highlight=False, soft_wrap=True)
    width = max(console.width, 20)
    if with_query:
        console.print(Text(one_line(query), style="bold"))
    if not hits:
        console.print("no documents")
    for number, hit in enumerate(hits, start=1):
        row = hit.document
        text = row["text"] or ""
        if hit.span is not None:
            text = text[slice(*hit.span)]
        head = Text(f"{number:>2}  {hit.score:.4f}  {one_line(hit.id)}  ", style="dim")
        if row["title"]:
            head = Text.assemble(head, snippet(row["title"], query, max(width - head.cell_len, 10)))
        console.print(head)
        if text:
            console.print(Text.assemble("    ", snippet(text, query, width - 4)))
        fields = [f"{name}: {_plain_text(value)}" for name, value in row.items() if _is_field(name, value)]
        if fields:
            console.print(Text("    " + snippet(" · ".join(fields), "", width - 4).plain, style="dim"))


def _is_field(name: str, value: Any) -> bool:
    return name not in ("id", "title", "text") and value is not None


def _plain_text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
