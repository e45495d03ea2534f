"""Loads and saves networks without transformers' progress bars and log messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress transformers' progress bars and loading reports.

    `Checkpoint` checks and reports missing and unexpected weights itself.
    """
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def save_network(network: PreTrainedModel, folder: Path) -> None:
    """Write configuration and weights (safetensors) to a folder."""
    with quiet_transformers():
        network.save_pretrained(folder)
