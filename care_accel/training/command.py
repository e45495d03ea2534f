"""Command line: ``care-accel train``."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from care_accel.errors import CareError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the training to a parser."""
    parser.add_argument("recipe", type=Path, help="YAML recipe; see care_accel/training/recipes")
    parser.add_argument(
        "--data-dir", type=Path, required=True, metavar="DIR", help="base folder of the recipe's data files"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="output folder; default: runs/<name of the recipe>"
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="also log losses for TensorBoard, to OUTPUT/tensorboard",
    )


def run(options: argparse.Namespace) -> None:
    """Train a recipe; resumes an interrupted run."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        from care_accel.training.processes import destroy_process_group
        from care_accel.training.run import train

        model = train(options.recipe, options.data_dir, options.output, tensorboard=options.tensorboard)
        destroy_process_group()
    except ImportError as missing:
        raise CareError(f"{missing.name} is not installed: pip install 'care-accel[train]'") from None
    print(
        f"trained {model!r}; evaluate it with: python -m care_accel.eval --model {model.source('query').checkpoint.folder.parent}"
    )
