"""Command line ``care-accel export`` without ``--repository``: exports an encoder."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from care_accel.encoding.loading.sources import DEFAULT, EMBEDDED
from care_accel.errors import CareError

_RUNTIMES = ("onnx", "native", "tensorrt", "pytorch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    parser.add_argument(
        "--model", default=DEFAULT, help="a folder, a hub name, or the embedded model; default: %(default)s"
    )
    parser.add_argument(
        "--preset", help="settings for folders without care.json: care or sentence-transformers"
    )
    parser.add_argument(
        "--runtime",
        choices=_RUNTIMES,
        help="onnx: ONNX Runtime on the CPU; native: this package's CPU engine; tensorrt: TensorRT on this machine's "
        "NVIDIA GPU; pytorch: no export, only --keep-vocab",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16", "int8"),
        help="default: float32 for onnx and pytorch, int8 for native, float16 for tensorrt",
    )
    parser.add_argument(
        "--role", default="query", choices=("query", "document", "both"), help="default: %(default)s"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder to write the dual encoder to")
    parser.add_argument(
        "--keep-vocab",
        type=Path,
        metavar="FILE",
        help="prune the vocabulary to the tokens of this corpus: JSON lines with 'text', or one text per line; plain or "
        ".gz",
    )
    gate = parser.add_argument_group("accuracy gate", "nothing is written if a limit is exceeded")
    gate.add_argument(
        "--texts", type=Path, metavar="FILE", help="texts for the cosines; default: those of the data set"
    )
    gate.add_argument("--data-dir", type=Path, metavar="DIR", help="data folder; default: the embedded demo")
    gate.add_argument(
        "--task", metavar="NAME", help="retrieval set, such as retrieval/cmedir; default: the first"
    )
    gate.add_argument("--split", metavar="NAME", help="default: dev if there is one, else test")
    gate.add_argument(
        "--worst-cosine",
        type=float,
        default=0.995,
        help="minimum cosine to the original embeddings; default: %(default)s",
    )
    gate.add_argument(
        "--top10-overlap",
        type=float,
        default=0.95,
        help="minimum mean overlap of the top 10; default: %(default)s",
    )
    gate.add_argument(
        "--ndcg-change",
        type=float,
        default=0.3,
        help="maximum change of nDCG@10 in points; default: %(default)s",
    )
    gate.add_argument(
        "--batch-change",
        type=float,
        help="maximum change of an embedding's values by the other texts in the batch; default: 1e-5, float16 2e-3, "
        "bfloat16 2e-2",
    )
    gate.add_argument(
        "--allow-batch-dependence",
        action="store_true",
        help="write the export even if it exceeds --batch-change; runtime='auto' will not select it",
    )


@contextmanager
def clean_exit_on_sigterm() -> Iterator[None]:
    """Make SIGTERM raise SystemExit, so that partly written files are removed."""
    if threading.current_thread() is not threading.main_thread():  # only it may set signal handlers
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def run(options: argparse.Namespace) -> None:
    """Export the model and print the gate's metrics."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if options.runtime is None or options.output is None:
        raise CareError("give --runtime and --output, or --repository")
    try:
        from care_accel.encoding import ROLES, DualEncoder
        from care_accel.export.gate import Limits
        from care_accel.export.run import export
        from care_accel.export.texts import DevSet, read_texts
    except ImportError as missing:
        raise CareError(f"{missing.name} is not installed: pip install 'care-accel[eval,onnx]'") from None
    # Read all input files before loading or writing anything.
    dev = DevSet.read(options.data_dir or EMBEDDED / "care-demo", options.task, options.split)
    texts = None if options.texts is None else read_texts(options.texts)
    keep = None if options.keep_vocab is None else read_texts(options.keep_vocab)
    with clean_exit_on_sigterm():
        metrics = export(
            DualEncoder.from_pretrained(options.model, preset=options.preset),
            options.output,
            runtime=options.runtime,
            dev=dev,
            roles=ROLES if options.role == "both" else (options.role,),
            dtype=options.dtype,
            texts=texts,
            limits=Limits(
                worst_cosine=options.worst_cosine,
                top10_overlap=options.top10_overlap,
                ndcg_change=options.ndcg_change,
                batch_change=options.batch_change,
            ),
            keep=keep,
            allow_batch_dependence=options.allow_batch_dependence,
            progress=print_progress,
        )
    for role, one in metrics.items():
        print(
            f"{role}: mean cosine {one.mean_cosine:.6f}, worst {one.worst_cosine:.6f} ({one.texts} texts); top-10 "
            f"overlap {one.top10_overlap:.4f}; nDCG@10 {one.ndcg_before:.2f} to {one.ndcg_after:.2f}; batch change "
            f"{one.batch_change:.1e}"
        )
    print(f"written to {options.output}/")


def print_progress(line: str) -> None:
    """Print a line on standard error, unbuffered."""
    print(line, file=sys.stderr, flush=True)
