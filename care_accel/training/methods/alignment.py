"""Embedding alignment with a teacher on unlabelled texts: the paper's Stage I, and distillation."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from care_accel.encoding import DualEncoder
from care_accel.errors import CareError
from care_accel.training.data.rows import read_texts, split_clauses, split_sentences
from care_accel.training.data.tables import limited
from care_accel.training.fitting import fit
from care_accel.training.losses import Alignment
from care_accel.training.methods.teachers import Teacher, load_teacher, principal_axes
from care_accel.training.networks import with_layers
from care_accel.training.processes import main_process_first
from care_accel.training.recipe import DataFile, Stage
from care_accel.training.router import build_library_model, save_trained

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

# Texts encoded between two writes: the most that a killed run loses.
_CHUNK = 8192


def train_alignment(model: DualEncoder, stage: Stage, data_dir: Path, work: Path, seed: int) -> DualEncoder:
    """Align the encoder of ``stage.role`` with its teacher's vectors of the same texts.

    The teacher is the frozen document encoder unless the stage sets another one. Its vectors are computed
    once and cached below ``work``. Every text of the stage's files is used, of all fields unless a file names some.
    See `train_joint` for the parameters.

    Raises
    ------
    CareError
        ``layers`` names a layer that the document encoder does not have.
    """
    teacher = load_teacher(stage, model)
    if stage.layers:
        model = with_layers(model, stage, work / "layers")
    with main_process_first():
        targets = _TeacherVectors(teacher, model.width, work / "vectors")
        tables = {
            f"{position} {source.file}": _load_table(
                model, targets, source, stage, data_dir, str(position), seed
            )
            for position, source in enumerate(stage.data)
        }
    library_model = build_library_model(model, stage, [stage.role])
    loss = Alignment(library_model, stage.temperature, stage.info_nce_weight, stage.mse_weight)
    fit(library_model, tables, loss, stage, work, seed)
    return save_trained(library_model, model, stage, work, [stage.role])


class _TeacherVectors:
    """A teacher's vectors, projected to the model's width by their principal axes if wider."""

    def __init__(self, teacher: Teacher, width: int, folder: Path) -> None:
        self._teacher = teacher
        self._width = width
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        vectors = self._teacher(texts)
        if vectors.shape[1] == self._width:
            return vectors
        if vectors.shape[1] < self._width:
            raise CareError(
                f"the teacher's vectors have {vectors.shape[1]} dimensions, the model's {self._width}; use a wider teacher"
            )
        file = self.folder / "axes.npy"
        if not file.is_file():  # fitted to the first chunk
            temporary = file.with_suffix(".tmp.npy")
            np.save(temporary, principal_axes(vectors, self._width))
            os.replace(temporary, file)
        cut: NDArray[np.float32] = vectors @ np.load(file, allow_pickle=False)
        return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)


def _load_table(
    model: DualEncoder,
    targets: _TeacherVectors,
    source: DataFile,
    stage: Stage,
    data_dir: Path,
    name: str,
    seed: int,
) -> Dataset:
    """Return the texts of a file, with the teacher's vectors as labels."""
    from datasets import Dataset, Features, List, Value, concatenate_datasets, load_from_disk

    spec = model.spec(stage.role)
    texts = limited(list(dict.fromkeys(_texts(data_dir / source.file, source))), source, seed)
    features = Features({"query": Value("string"), "label": List(Value("float32"), length=model.width)})
    folder = targets.folder / name
    folder.mkdir(exist_ok=True)
    parts = []
    for start in range(0, len(texts), _CHUNK):
        part, chunk = folder / str(start), texts[start : start + _CHUNK]
        if not part.is_dir():
            vectors = targets.encode(chunk)
            formatted = [spec.format(text, source.task) for text in chunk]
            temporary = folder / f"{start}.tmp"
            shutil.rmtree(temporary, ignore_errors=True)
            Dataset.from_dict({"query": formatted, "label": vectors}, features=features).save_to_disk(
                temporary
            )
            os.replace(temporary, part)
            log.info("%s: %d of %d texts encoded", source.file, start + len(chunk), len(texts))
        parts.append(load_from_disk(part))
    return concatenate_datasets(parts)


def _texts(file: Path, source: DataFile) -> Iterator[str]:
    for text in read_texts(file, source.fields):
        yield text
        if source.sentences:
            yield from split_sentences(text)
        if source.clauses:
            yield from split_clauses(text)
