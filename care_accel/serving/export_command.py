"""Command line: ``care-accel export``, of an encoder to a faster runtime or of a model repository."""

from __future__ import annotations

import argparse
from pathlib import Path

from care_accel.errors import CareError
from care_accel.export import command as encoder_command
from care_accel.export.command import clean_exit_on_sigterm, print_progress

_ENGINES = ("python", "onnxruntime", "tensorrt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of both kinds of export to a parser."""
    encoder_command.add_arguments(parser)
    served = parser.add_argument_group(
        "model repository", "for NVIDIA Triton Inference Server, instead of --runtime and --output"
    )
    served.add_argument("--repository", type=Path, metavar="DIR", help="folder of the model repository")
    served.add_argument(
        "--engine",
        default="python",
        choices=_ENGINES,
        help="python: this package's runtimes, in the Python backend; the others: backends of NVIDIA's containers; "
        "default: %(default)s",
    )
    served.add_argument(
        "--index",
        metavar="DIR",
        help="saved Retriever or ExactIndex, or a collection (its folder or address), for scan and search",
    )
    served.add_argument("--gpu", action="store_true", help="run an instance of each model on every GPU")
    served.add_argument(
        "--several-tenants",
        action="store_true",
        help="disable the query vector cache, whose response times reveal what other tenants asked",
    )
    served.add_argument(
        "--in-process",
        action="store_true",
        help="run search in the server's own process, for servers that care-accel serve or this package's tritonserver start",
    )


def run(options: argparse.Namespace) -> None:
    """Write a model repository if --repository is given, else export the encoder."""
    if options.repository is None:
        encoder_command.run(options)
    else:
        _write_repository(options)


def _write_repository(options: argparse.Namespace) -> None:
    from care_accel.serving.repository.engines import write_engine_repository
    from care_accel.serving.repository.python_backend import write_repository

    if options.runtime is not None or options.output is not None or options.keep_vocab is not None:
        raise CareError(
            "--repository cannot be combined with --runtime, --output or --keep-vocab; export the model first"
        )
    common = {
        "index": options.index,
        "gpu": options.gpu,
        "preset": options.preset,
        "dtype": options.dtype,
    }
    with clean_exit_on_sigterm():
        if options.engine == "python":
            write_repository(
                options.repository,
                options.model,
                several_tenants=options.several_tenants,
                in_process=options.in_process,
                **common,
            )
        else:
            write_engine_repository(
                options.repository, options.model, engine=options.engine, progress=print_progress, **common
            )
    print(f"written to {options.repository}/")
