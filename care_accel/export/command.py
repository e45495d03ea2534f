"""The command line of the export: ``care-accel export``."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from care_accel.encoding.sources import DEFAULT, EMBEDDED
from care_accel.errors import CareError

_ENGINES = ("python", "onnxruntime", "tensorrt")
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
    served = parser.add_argument_group(
        "repository", "for NVIDIA Triton Inference Server, instead of --runtime and --output"
    )
    served.add_argument("--repository", type=Path, metavar="DIR", help="a model repository")
    served.add_argument(
        "--engine",
        default="python",
        choices=_ENGINES,
        help="python: this package's runtimes, in any server; the others: backends of NVIDIA's containers; "
        "default: %(default)s",
    )
    served.add_argument(
        "--index", type=Path, metavar="DIR", help="a saved Retriever or ExactIndex, for scan and search"
    )
    served.add_argument("--gpu", action="store_true", help="an instance of each model on every GPU")
    served.add_argument(
        "--several-tenants",
        action="store_true",
        help="keep no vectors of queries: how fast an answer comes would tell what others have asked",
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
def _ended_cleanly() -> Iterator[None]:
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
    if options.repository is not None:
        _write_repository(options)
        return
    if options.runtime is None or options.output is None:
        raise CareError("give --runtime and --output, or --repository")
    try:
        from transformers.utils import logging as transformers_logging

        from care_accel.encoding import ROLES, DualEncoder
        from care_accel.export.gate import Limits
        from care_accel.export.run import export
        from care_accel.export.texts import DevSet, read_texts
    except ImportError as missing:
        raise CareError(f"{missing.name} is not installed: pip install 'care-accel[eval,onnx]'") from None
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    # Everything is read before anything is loaded or written.
    dev = DevSet.read(options.data_dir or EMBEDDED / "care-demo", options.task, options.split)
    texts = None if options.texts is None else read_texts(options.texts)
    keep = None if options.keep_vocab is None else read_texts(options.keep_vocab)
    with _ended_cleanly():
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
            progress=_say,
        )
    for role, one in figures.items():
        print(
            f"{role}: cosine {one.mean_cosine:.6f} on average, {one.worst_cosine:.6f} at worst ({one.texts} texts); "
            f"top-10 overlap {one.top10_overlap:.4f}; nDCG@10 {one.ndcg_before:.2f} to {one.ndcg_after:.2f}; "
            f"a batch changes {one.batch_change:.1e}"
        )
    print(f"written to {options.output}/")


def _write_repository(options: argparse.Namespace) -> None:
    # Above this room in the house: one verb writes both what the library and what the server runs.
    from care_accel.serving.engines import write_engine_repository
    from care_accel.serving.repository import write_repository

    if options.runtime is not None or options.output is not None or options.keep_vocab is not None:
        raise CareError(
            "--repository goes without --runtime, --output and --keep-vocab; export the model first"
        )
    common = {
        "index": options.index,
        "gpu": options.gpu,
        "preset": options.preset,
        "dtype": options.dtype,
    }
    with _ended_cleanly():
        if options.engine == "python":
            write_repository(
                options.repository, options.model, several_tenants=options.several_tenants, **common
            )
        else:
            write_engine_repository(
                options.repository, options.model, engine=options.engine, progress=_say, **common
            )
    print(f"written to {options.repository}/")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
