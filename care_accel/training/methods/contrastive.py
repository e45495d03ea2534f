"""Contrastive training of one encoder on both sides, the paper's initialisation of each."""

from __future__ import annotations

from pathlib import Path

from care_accel.encoding import DualEncoder
from care_accel.training.data.tables import load_tables
from care_accel.training.fitting import fit
from care_accel.training.losses import InfoNCE
from care_accel.training.recipe import Stage
from care_accel.training.router import build_library_model, save_trained


def train_contrastive(model: DualEncoder, stage: Stage, data_dir: Path, work: Path, seed: int) -> DualEncoder:
    """Train the encoder of ``stage.role`` by InfoNCE; the other one is unchanged.

    It encodes queries and documents, each with the prompts of their role. See `train_joint` for the
    parameters.
    """
    tables = load_tables(model, stage, data_dir, work, seed)
    library_model = build_library_model(model, stage, [stage.role])
    loss = InfoNCE(library_model, stage.temperature, stage.widths, stage.mini_batch_size)
    fit(library_model, tables, loss, stage, work, seed)
    return save_trained(library_model, model, stage, work, [stage.role])
