"""The command line of exporting an encoder: ``care-accel export`` without ``--repository``."""

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
    """Add the options of the export to a parser."""
    parser.add_argument(
        "--model", default=DEFAULT, help="a folder, a hub name, or the embedded model; default: %(default)s"
    )
    parser.add_argument(
        "--preset", help="what folders without care.json follow: care or sentence-transformers"
    )
    parser.add_argument(
        "--runtime",
        choices=_RUNTIMES,
        help="onnx: ONNX Runtime on the CPU; native: the own engine on the CPU; tensorrt: this machine's NVIDIA GPU; "
        "pytorch: weights alone, for --keep-vocab",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16", "int8"),
        help="default: float32 for onnx and pytorch, int8 for native, float16 for tensorrt",
    )
    parser.add_argument(
        "--role", default="query", choices=("query", "document", "both"), help="default: %(default)s"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="a dual encoder's folder")
    parser.add_argument(
        "--keep-vocab",
        type=Path,
        metavar="FILE",
        help="keep the embeddings of this corpus's tokens only: JSON lines with 'text', or a text a line, .gz or not",
    )
    gate = parser.add_argument_group("accuracy gate", "what is beyond a limit is not written")
    gate.add_argument("--texts", type=Path, metavar="FILE", help="for the cosines; default: the set's own")
    gate.add_argument("--data-dir", type=Path, metavar="DIR", help="default: the embedded demo")
    gate.add_argument(
        "--task", metavar="NAME", help="such as retrieval/cmedir; default: the first retrieval set"
    )
    gate.add_argument("--split", metavar="NAME", help="default: dev where there is one, else test")
    gate.add_argument("--worst-cosine", type=float, default=0.995, help="at least; default: %(default)s")
    gate.add_argument("--top10-overlap", type=float, default=0.95, help="at least; default: %(default)s")
    gate.add_argument("--ndcg-change", type=float, default=0.3, help="points at most; default: %(default)s")
    gate.add_argument(
        "--batch-change",
        type=float,
        help="how far neighbours in a batch may move a value of a vector; default: 1e-5, in half precision what "
        "that rounds",
    )
    gate.add_argument(
        "--allow-batch-dependence",
        action="store_true",
        help="write a runtime beyond that limit too, which runtime='auto' never takes",
    )


@contextmanager
def ended_cleanly() -> Iterator[None]:
    """Let SIGTERM end the process as an error does: what is half written, a copy of the model, is removed."""
    if threading.current_thread() is not threading.main_thread():  # who alone may set handlers
        yield
        return
    former = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def run(options: argparse.Namespace) -> None:
    """Export as the options say, and print what the gate measured."""
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
    # Everything is read before anything is loaded or written.
    dev = DevSet.read(options.data_dir or EMBEDDED / "care-demo", options.task, options.split)
    texts = None if options.texts is None else read_texts(options.texts)
    keep = None if options.keep_vocab is None else read_texts(options.keep_vocab)
    with ended_cleanly():
        figures = export(
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
    for role, one in figures.items():
        print(
            f"{role}: cosine {one.mean_cosine:.6f} on average, {one.worst_cosine:.6f} at worst ({one.texts} texts); "
            f"top-10 overlap {one.top10_overlap:.4f}; nDCG@10 {one.ndcg_before:.2f} to {one.ndcg_after:.2f}; "
            f"a batch changes {one.batch_change:.1e}"
        )
    print(f"written to {options.output}/")


def print_progress(line: str) -> None:
    """Print a line on standard error, at once."""
    print(line, file=sys.stderr, flush=True)
