"""The command line of the evaluation: ``python -m care_accel.eval`` and ``care-accel eval``."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_accel.encoding.loading.sources import DEFAULT, EMBEDDED
from care_accel.errors import CareError, exit_code
from care_accel.files import make_folder

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

    from care_accel.encoding import BaseDualEncoder, DualEncoder, ServedDualEncoder
    from care_accel.eval.tasks import Skipped

DEMO = EMBEDDED / "care-demo"
CACHE = ".embeddings.sqlite3"
# Nobody waits for a single request of an evaluation, and one that was refused must not end it.
_SERVER_TIMEOUT, _SERVER_RETRIES = 600.0, 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m care_accel.eval",
        description=(
            "Evaluate a dual encoder. Without arguments: the embedded model, its untrained twin, and the "
            "embedded benchmark."
        ),
    )
    add_arguments(parser)
    options = parser.parse_args(arguments)
    return exit_code(lambda: run(options))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the evaluation to a parser."""
    model = parser.add_argument_group("model")
    model.add_argument("--model", help=f"{DEFAULT} (embedded, the default), a folder, or a hub name")
    model.add_argument(
        "--query-model", metavar="DIR", help="two encoders instead of --model: the query encoder"
    )
    model.add_argument("--document-model", metavar="DIR", help="... and the document encoder")
    model.add_argument(
        "--preset", help="what folders without care.json follow: care or sentence-transformers"
    )
    model.add_argument(
        "--server",
        metavar="ADDRESS",
        help="instead of --model: what an inference server serves at this gRPC address, such as localhost:8001",
    )
    model.add_argument(
        "--baseline",
        nargs="+",
        default=[],
        choices=("bm25", "untrained", "twin"),
        help="evaluated beside the model: words alone; the same networks with random weights (always shown "
        "when no model is named); the document encoder on both sides",
    )
    model.add_argument(
        "--hybrid",
        action="store_true",
        help="evaluated beside the model: its ranking fused with BM25's by reciprocal rank",
    )
    data = parser.add_argument_group("data")
    source = data.add_mutually_exclusive_group()
    source.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="a folder with retrieval/*, reranking/*, sts/* instead of the demo",
    )
    source.add_argument(
        "--cmedteb",
        metavar="SOURCE",
        help="CMedTEB: a folder or hub name with the three sets that are not in mteb",
    )
    data.add_argument("--split", default="test", help="default: %(default)s")
    data.add_argument(
        "--tasks", nargs="+", default=[], metavar="NAME", help="names or patterns such as 'sts/*'"
    )
    data.add_argument(
        "--limit", type=_positive, metavar="N", help="the first N queries or pairs; all documents"
    )
    running = parser.add_argument_group("running")
    running.add_argument("--device", default="auto", help="auto, cpu, cuda, ...; default: %(default)s")
    running.add_argument("--batch-size", type=_positive, default=64, metavar="N", help="default: %(default)s")
    running.add_argument(
        "--output", type=Path, default=Path("results"), metavar="DIR", help="default: %(default)s"
    )
    running.add_argument("--overwrite", action="store_true", help="run finished tasks and encode texts again")


def run(options: argparse.Namespace) -> None:
    """Evaluate as the options say, and print the table."""
    if (options.query_model or options.document_model) and options.model:
        raise CareError("give --model, or --query-model and --document-model, not both")
    model = _local_model(options) if options.server is None else _served_model(options)
    _quieten()
    tasks, skipped = _tasks(options)
    # Everything is read before anything is encoded: a broken row is said at once.
    from care_accel.eval.tasks import load

    tasks = [load(task, options.limit) for task in tasks]
    make_folder(options.output, "--output")
    with tempfile.TemporaryDirectory() as folder:
        _evaluate(options, model, tasks, skipped, Path(folder))


def _local_model(options: argparse.Namespace) -> DualEncoder:
    from care_accel.encoding import DualEncoder
    from care_accel.encoding.runtimes.pytorch import resolve_device

    options.device = resolve_device(options.device)
    return DualEncoder.from_pretrained(
        options.model,
        query=options.query_model,
        document=options.document_model,
        preset=options.preset,
        device=options.device,
    )


def _served_model(options: argparse.Namespace) -> ServedDualEncoder:
    from care_accel.encoding import DualEncoder

    for name in ("model", "query_model", "document_model", "preset"):
        if getattr(options, name) is not None:
            raise CareError(
                f"give --server or --{name.replace('_', '-')}, not both: the server has its own model"
            )
    if options.device != "auto":
        raise CareError("give --server or --device, not both: the server has its own device")
    if weights := sorted({"untrained", "twin"} & set(options.baseline)):
        raise CareError(
            f"--baseline {weights[0]} needs the networks, which are in the server; run it with --model instead of "
            "--server"
        )
    options.device = f"server {options.server}"
    return DualEncoder.from_server(options.server, timeout=_SERVER_TIMEOUT, retries=_SERVER_RETRIES)


def _evaluate(
    options: argparse.Namespace,
    model: BaseDualEncoder,
    tasks: list[AbsTask],
    skipped: list[Skipped],
    folder: Path,
) -> None:
    from care_accel.encoding import DualEncoder
    from care_accel.eval.baselines import BM25Model, untrained
    from care_accel.eval.cache import EmbeddingCache
    from care_accel.eval.hybrid import HybridModel
    from care_accel.eval.mteb_model import MtebModel
    from care_accel.eval.report import print_report
    from care_accel.eval.run import evaluate

    dual_encoders: list[BaseDualEncoder] = [model]
    if isinstance(model, DualEncoder):
        unnamed = options.model is None and options.query_model is None
        if unnamed or "untrained" in options.baseline:
            dual_encoders.append(untrained(model, folder))
        if "twin" in options.baseline:
            dual_encoders.append(model.twin())
    cache = EmbeddingCache(options.output / CACHE, anew=options.overwrite)
    models: list[Any] = [
        MtebModel(m, cache=cache, batch_size=options.batch_size, show_progress=sys.stderr.isatty())
        for m in dual_encoders
    ]
    if options.hybrid:
        models.insert(1, HybridModel(models[0], BM25Model()))
    if "bm25" in options.baseline:
        models.append(BM25Model())
    summaries = []
    for evaluated in models:
        summary = evaluate(
            evaluated,
            tasks,
            options.output,
            skipped=skipped,
            limit=options.limit,
            overwrite=options.overwrite,
            device=options.device,
            progress=_say,
        )
        summaries.append(summary)
    cache.close()
    print_report(summaries)
    print(f"written to {options.output}/")


def _tasks(options: argparse.Namespace) -> tuple[list[AbsTask], list[Skipped]]:
    try:
        from care_accel.eval.tasks import cmedteb_tasks, folder_tasks
    except ImportError as missing:
        raise CareError(f"{missing.name} is not installed: pip install 'care-accel[eval]'") from None
    if options.cmedteb is not None:
        return cmedteb_tasks(options.cmedteb, options.split, options.tasks), []
    return folder_tasks(options.data_dir or DEMO, options.split, options.tasks)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _quieten() -> None:
    """Keep the libraries' own bars and notes off the screen; warnings of ours stay."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in ("mteb", "datasets", "sentence_transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)
