"""Language modelling: pretraining of a new network before it learns to retrieve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from care_accel.encoding import DualEncoder
from care_accel.errors import CareError
from care_accel.training.data.rows import read_texts
from care_accel.training.fitting import fit
from care_accel.training.losses import LanguageModel
from care_accel.training.recipe import Stage
from care_accel.training.router import build_library_model, save_trained

if TYPE_CHECKING:
    from datasets import Dataset


def train_language(model: DualEncoder, stage: Stage, data_dir: Path, work: Path, seed: int) -> DualEncoder:
    """Train the encoder of ``stage.role`` to predict tokens: the next ones if it is causal, else masked ones.

    Every text of the stage's files is used, of all fields unless a file names some. See `train_joint` for the
    parameters.

    Raises
    ------
    CareError
        The tokenizer of an encoder that is not causal has no mask token.
    """
    checkpoint = model.source(stage.role).checkpoint
    if not checkpoint.causal and checkpoint.load_tokenizer().mask_token_id is None:
        raise CareError(
            f"stage {stage.name!r}: the tokenizer of {checkpoint.folder} has no mask token; use a tokenizer with one"
        )
    tables = {
        f"{position} {s.file}": _load_table(data_dir / s.file, s.fields)
        for position, s in enumerate(stage.data)
    }
    library_model = build_library_model(model, stage, [stage.role])
    loss = LanguageModel(library_model, causal=checkpoint.causal, mask_ratio=stage.mask_ratio)
    fit(library_model, tables, loss, stage, work, seed)
    return save_trained(library_model, model, stage, work, [stage.role])


def _load_table(file: Path, fields: list[str]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_dict({"query": list(dict.fromkeys(read_texts(file, fields)))})
