"""Command line: ``care-accel index``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from care_accel.encoding.loading.sources import DEFAULT
from care_accel.errors import CareError, Stopped
from care_accel.stopping import stops_once

if TYPE_CHECKING:
    from care_accel.collection import Collection, Upserted
    from care_accel.collection.sources import DocumentReader


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="files of JSON lines, CSV, TSV (plain, gzip, zstd) or Parquet, folders of these or in BEIR's layout, "
        "hf:OWNER/NAME for a data set of the Hugging Face hub, - for standard input",
    )
    parser.add_argument(
        "--collection",
        required=True,
        metavar="COLLECTION",
        help="its folder or address; created if it is missing",
    )
    parser.add_argument("--index-dir", type=Path, metavar="DIR", help="folder of the derived index")
    rows = parser.add_argument_group("rows")
    rows.add_argument("--id", metavar="NAME", help="default: _id or id, whichever there is")
    rows.add_argument("--text", default="text", metavar="NAME", help="default: %(default)s")
    rows.add_argument("--title", metavar="NAME", help="default: title, where there is one")
    rows.add_argument(
        "--fields",
        metavar="NAMES",
        help="further values, by which searches can be filtered: department,year:int; types are str, int, float and bool "
        "(of CSV, where all is text); * for all",
    )
    rows.add_argument("--encoding", default="utf-8", help="of text: utf-8 (the default), gb18030 or big5")
    rows.add_argument(
        "--skip-bad",
        type=Path,
        metavar="FILE",
        help="leave out rows that are no documents, and write them to this file",
    )
    new = parser.add_argument_group("a new collection")
    new.add_argument(
        "--model", help=f"a folder or a name; default: {DEFAULT}; of an existing one: where it has moved"
    )
    new.add_argument(
        "--dtype",
        help="precision of the encoders, of an existing collection too: int8 encodes about three times as many documents a "
        "second on a CPU; default: the model's own",
    )
    new.add_argument(
        "--chunk-tokens", type=int, metavar="N", help="cut documents into chunks; default: they are not cut"
    )
    new.add_argument("--chunk-overlap", type=int, metavar="N", help="tokens that chunks share; default: 0")
    new.add_argument(
        "--lexical", action="store_true", help="keep a lexical index (BM25) too, and fuse both rankings"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--replace", action="store_true", help="delete the documents that the sources do not have"
    )
    how.add_argument(
        "--commit-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds of work between commits; default: %(default)g",
    )
    how.add_argument(
        "--dry-run", action="store_true", help="count, estimate how long it would take, and write nothing"
    )


def run(options: argparse.Namespace) -> None:
    """Index documents; again, it goes on and takes what has changed."""
    from care_accel.collection.sources import read_documents

    with read_documents(
        options.sources,
        id=options.id,
        text=options.text,
        title=options.title,
        fields=fields_of(options),
        encoding=options.encoding,
        skip_bad=options.skip_bad,
    ) as reader:
        if options.dry_run:
            with tempfile.TemporaryDirectory(prefix="care-accel-") as folder:
                new = Path(folder) / "collection"  # stands for one that is not there yet
                _preview(open_or_create(options, reader, new), reader, options)
        else:
            _index(open_or_create(options, reader), reader, options)


def fields_of(options: argparse.Namespace) -> list[str] | None:
    """Return the names of the fields that are asked for."""
    return [name.strip() for name in options.fields.split(",")] if options.fields else None


def open_or_create(
    options: argparse.Namespace, reader: DocumentReader, new: Path | None = None
) -> Collection:
    """Return the collection of the options; a new one is created once the first document could be read.

    Parameters
    ----------
    options : argparse.Namespace
    reader : DocumentReader
    new : Path, optional
        Where a new one is created; by default at the place of the options.

    Raises
    ------
    CareError
        Options are not those of the existing collection.
    """
    from care_accel.collection import Collection
    from care_accel.collection.storage.layout import is_collection, is_remote, located
    from care_accel.encoding import DualEncoder

    options.collection = located(options.collection)
    if is_collection(options.collection) or (is_remote(options.collection) and _exists(options)):
        collection = Collection.open(options.collection, model=options.model, index_dir=options.index_dir)
        _check_same(collection, options)
        if options.dtype:
            load = {"model": options.model} if options.model else collection.manifest.load
            model = DualEncoder.from_pretrained(**(load | {"dtype": options.dtype}))
            collection = Collection.open(options.collection, model=model, index_dir=options.index_dir)
    else:
        reader.read_first()
        collection = Collection.create(
            new or options.collection,
            DualEncoder.from_pretrained(options.model or DEFAULT, dtype=options.dtype),
            chunk_tokens=options.chunk_tokens,
            chunk_overlap=options.chunk_overlap or 0,
            lexical=options.lexical,
            index_dir=None if new else options.index_dir,
        )
    return collection


def _exists(options: argparse.Namespace) -> bool:
    from care_accel.collection import Collection
    from care_accel.collection.storage.lance_errors import NoCollection

    try:
        Collection.open(options.collection)
    except NoCollection:
        return False
    return True


def _check_same(collection: Collection, options: argparse.Namespace) -> None:
    """Check that options of a new collection, if given, are those of the existing one."""
    known = collection.manifest
    for name in ("chunk_tokens", "chunk_overlap", "lexical"):
        wanted = getattr(options, name)
        if wanted not in (None, False) and wanted != getattr(known, name):
            raise CareError(
                f"{options.collection}: was created with {name.replace('_', ' ')} {getattr(known, name)}; leave out "
                f"--{name.replace('_', '-')}, or index into another collection"
            )
    wished = fields_of(options) or []
    missing = [
        n for n in collection.fields if not any(w in (n, "*") or w.rpartition(":")[0] == n for w in wished)
    ]
    if missing:  # easily forgotten the second time
        print(
            f"--fields does not name {', '.join(missing)}: of documents that are written these are empty afterwards",
            file=sys.stderr,
        )


def _preview(collection: Collection, reader: DocumentReader, options: argparse.Namespace) -> None:
    seen: set[str] = set()
    with _progress(reader, "counting") as report:
        counts, seconds = collection.preview(
            _Noted(reader, seen) if options.replace else reader, report=report
        )
    removed = len(_gone(collection, reader, seen)) if options.replace else 0
    print(
        f"{counts.new:,} new, {counts.changed:,} changed, {counts.same:,} the same"
        f"{f', {removed:,} deleted' if removed else ''}"
        f"{f', {counts.doubled:,} doubled' if counts.doubled else ''}; {counts.chunks:,} would be encoded, in about "
        f"{duration(seconds)}; nothing was written"
    )


def _index(collection: Collection, reader: DocumentReader, options: argparse.Namespace) -> None:
    seen: set[str] = set()
    with stops_once() as stopped, _progress(reader, "indexing") as report:
        done = collection.upsert(
            _Noted(reader, seen) if options.replace else reader,
            report=report,
            stop=stopped,
            commit_seconds=options.commit_seconds,
        )
    removed = 0
    if options.replace and not done.stopped:
        removed = collection.delete(_gone(collection, reader, seen))
    _summary(collection, done, reader, removed)
    if done.stopped:
        raise Stopped(stopped.number)


def _gone(collection: Collection, reader: DocumentReader, seen: set[str]) -> list[str]:
    """Return the documents that --replace deletes."""
    if reader.skipped:
        print("bad rows were left out, so nothing is deleted by --replace", file=sys.stderr)
        return []
    if not seen:
        raise CareError(
            f"the sources have no documents, so --replace would delete all of {collection.uri}; if that is meant: care-accel "
            "delete --filter true"
        )
    return [name for name in collection.ids() if name not in seen]


def _summary(collection: Collection, done: Upserted, reader: DocumentReader, removed: int) -> None:
    parts = [f"{done.new:,} new", f"{done.changed:,} changed", f"{done.same:,} the same"]
    for count, what in (
        (removed, "deleted"),
        (done.doubled, "doubled"),
        (reader.skipped, "bad rows left out"),
        (done.truncated, f"cut at the model's {_limit(collection)} tokens"),
    ):
        if count:
            parts.append(f"{count:,} {what}")
    rate = (
        f", {done.chunks / done.encode_seconds:,.0f} texts a second"
        if done.chunks and done.encode_seconds
        else ""
    )
    print(f"{', '.join(parts)}; {duration(done.seconds)}{rate}")
    print(f"{collection.uri}: {len(collection):,} documents, version {collection.version}")


def _limit(collection: Collection) -> int:
    return collection.model.spec("document").max_tokens


class _Noted:
    """Rows of a reader, with their ids noted."""

    def __init__(self, reader: DocumentReader, seen: set[str]) -> None:
        self._reader, self._seen = reader, seen
        self.reject = reader.reject

    @property
    def place(self) -> str:
        return self._reader.place

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self._reader:
            self._seen.add(row["id"])
            yield row


@contextmanager
def _progress(reader: DocumentReader, what: str) -> Iterator[Callable[[Upserted], None]]:
    """Show a line that is brought up to date on a terminal, and one every half minute elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    begun = monotonic()
    if not console.is_terminal:
        told = begun

        def tell(done: Upserted) -> None:
            nonlocal told
            if monotonic() - told >= 30:
                told = monotonic()
                print(_state(done, told - begun), file=sys.stderr, flush=True)

        yield tell
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=None, state="")

        def show(done: Upserted) -> None:
            fraction = reader.fraction()
            progress.update(
                task,
                total=None if fraction is None else 1.0,
                completed=fraction or 0.0,
                state=_state(done, monotonic() - begun),
            )

        yield show


def _state(done: Upserted, seconds: float) -> str:
    rows = done.read
    text = f"{rows:,} documents, {rows / max(seconds, 1e-9):,.0f} a second, {done.tokens:,} tokens"
    return text + (f", {done.truncated:,} cut" if done.truncated else "")


def duration(seconds: float) -> str:
    """Return a time for a reader."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
