"""Networks loaded and saved without the progress bars and notes of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from drawing bars and printing reports: a library prints nothing that nobody asked for.

    What it would report of weights that are missing or unexpected is checked, and said, by `Checkpoint`.
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
