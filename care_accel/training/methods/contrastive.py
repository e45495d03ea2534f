"""One encoder on both sides, trained by InfoNCE: how the paper initialises each of the two."""

from __future__ import annotations

from pathlib import Path

from care_accel.encoding import DualEncoder
from care_accel.training.data.tables import load_tables
from care_accel.training.fitting import fit
from care_accel.training.losses import InfoNCE
from care_accel.training.recipe import Stage
from care_accel.training.router import collect, trainable


def train_contrastive(model: DualEncoder, stage: Stage, data_dir: Path, work: Path, seed: int) -> DualEncoder:
    """Train the encoder of ``stage.role`` and return the dual encoder with it; the other one stays.

    It encodes queries and documents, each with the prompts of their role. See `train_joint` for the
    parameters.
    """
    tables = load_tables(model, stage, data_dir, work, seed)
    library_model = trainable(model, stage, [stage.role])
    loss = InfoNCE(library_model, stage.temperature, stage.widths, stage.mini_batch_size)
    fit(library_model, tables, loss, stage, work, seed)
    return collect(library_model, model, work, [stage.role])
