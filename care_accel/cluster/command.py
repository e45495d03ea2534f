"""Command line: ``care-accel index``, by one process or, with ``--cluster``, by many machines."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from care_accel.collection.commands import indexing
from care_accel.errors import CareError, Stopped
from care_accel.files import write_text
from care_accel.stopping import stops_once

if TYPE_CHECKING:
    from care_accel.cluster import Encoded

# Options of one process that have no meaning, or none yet, for many.
_ALONE = {"replace": "--replace", "dry_run": "--dry-run"}
# And those of many.
_MANY = (
    "workers",
    "gpus_per_worker",
    "part_tokens",
    "batch_tokens",
    "new_plan",
    "mixed_runtimes",
    "json_log",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    indexing.add_arguments(parser)
    many = parser.add_argument_group("many machines (extra cluster)")
    many.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="encode on a Ray cluster: its address, or auto for that of this machine; none plans parts as a cluster does and "
        "encodes them here",
    )
    many.add_argument("--workers", type=int, metavar="N", help="default: as many as the cluster has room for")
    many.add_argument(
        "--gpus-per-worker", type=float, metavar="G", help="default: 1 if the cluster has GPUs, else 0"
    )
    many.add_argument(
        "--cpus-per-worker",
        type=float,
        default=1.0,
        metavar="C",
        help="CPUs and threads; default: %(default)g",
    )
    many.add_argument(
        "--wait-seconds",
        type=float,
        default=600.0,
        metavar="S",
        help="most seconds until the first worker has a place; default: %(default)g",
    )
    many.add_argument(
        "--part-tokens",
        type=int,
        metavar="N",
        help="tokens that a worker encodes and commits together; default: 20,000 to 4,000,000, so that there are some 64 parts",
    )
    many.add_argument(
        "--batch-tokens",
        type=int,
        metavar="N",
        help="most tokens of a batch, padding included; default: 16,384",
    )
    many.add_argument(
        "--new-plan",
        action="store_true",
        help="leave an unfinished run of other sources or settings; what it has done is kept",
    )
    many.add_argument(
        "--mixed-runtimes",
        action="store_true",
        help="allow workers whose runtimes give vectors that differ by more than 1e-5",
    )
    many.add_argument("--json-log", type=Path, metavar="FILE", help="append events, one JSON object a line")


def run(options: argparse.Namespace) -> None:
    """Index documents, here or on a cluster."""
    if options.cluster is None:
        for name in _MANY:
            if getattr(options, name):
                raise CareError(f"--{name.replace('_', '-')} needs --cluster")
        indexing.run(options)
        return
    for name, option in _ALONE.items():
        if getattr(options, name):
            raise CareError(f"{option} works without --cluster only")
    _encode(options)


def _encode(options: argparse.Namespace) -> None:
    from care_accel.cluster import Reading, encode_corpus
    from care_accel.collection.sources import read_documents

    fields = indexing.fields_of(options)
    reading = Reading(
        id=options.id,
        text=options.text,
        title=options.title,
        fields=None if fields is None else tuple(fields),
        encoding=options.encoding,
        skip_bad=options.skip_bad is not None,
    )
    with read_documents(
        options.sources,
        id=options.id,
        text=options.text,
        title=options.title,
        fields=fields,
        encoding=options.encoding,
        skip_bad=options.skip_bad,
    ) as reader:
        collection = indexing.open_or_create(options, reader)
    with stops_once() as stopped:
        done = encode_corpus(
            options.sources,
            collection,
            cluster=options.cluster,
            reading=reading,
            workers=options.workers,
            gpus_per_worker=options.gpus_per_worker,
            cpus_per_worker=options.cpus_per_worker,
            wait_seconds=options.wait_seconds,
            part_tokens=options.part_tokens,
            batch_tokens=options.batch_tokens,
            new_plan=options.new_plan,
            mixed_runtimes=options.mixed_runtimes,
            json_log=options.json_log,
            stop=stopped,
        )
    _write_skipped(options.skip_bad, done)
    _summary(done)
    print(f"{collection.uri}: {len(collection):,} documents, version {collection.version}")
    if done.set_aside:
        reasons = "; ".join(done.set_aside[number] for number in sorted(done.set_aside))
        raise CareError(
            f"{len(done.set_aside)} of {done.parts} parts are not in the collection: {reasons}; the same command tries them "
            "again"
        )
    if done.stopped:
        raise Stopped(stopped.number)


def _write_skipped(file: Path | None, done: Encoded) -> None:
    if file is not None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in done.skipped)
        write_text(file, text, private=True)


def _summary(done: Encoded) -> None:
    parts = [f"{done.new:,} new", f"{done.changed:,} changed", f"{done.same:,} the same"]
    for count, what in (
        (done.doubled, "doubled"),
        (len(done.skipped), "bad rows left out"),
        (done.truncated, "cut at the model's limit"),
        (done.deaths, "workers died"),
        (done.halved, "batches halved"),
    ):
        if count:
            parts.append(f"{count:,} {what}")
    before = f", {done.parts_before:,} of them done before" if done.parts_before else ""
    print(f"{', '.join(parts)}; {done.parts:,} parts{before}; {indexing.duration(done.seconds)}")
