"""The paper's Stage II: both encoders trained together by InfoNCE."""

from __future__ import annotations

from pathlib import Path

from care_accel.encoding import DualEncoder
from care_accel.training.data.tables import load_tables
from care_accel.training.fitting import fit
from care_accel.training.losses import InfoNCE
from care_accel.training.recipe import Stage
from care_accel.training.router import build_library_model, save_trained


def train_joint(model: DualEncoder, stage: Stage, data_dir: Path, work: Path, seed: int) -> DualEncoder:
    """Train both encoders of a model and return the result, stored below ``work``.

    Parameters
    ----------
    model : DualEncoder
        Initial model; not modified.
    stage : Stage
    data_dir : Path
    work : Path
        Checkpoints and networks of this stage.
    seed : int
    """
    tables = load_tables(model, stage, data_dir, work, seed)
    library_model = build_library_model(model, stage)
    columns = {name for table in tables.values() for name in table.column_names}
    routes = {name: "query" if name == "query" else "document" for name in columns}
    loss = InfoNCE(library_model, stage.temperature, stage.widths, stage.mini_batch_size)
    fit(library_model, tables, loss, stage, work, seed, routes=routes)
    return save_trained(library_model, model, stage, work)
