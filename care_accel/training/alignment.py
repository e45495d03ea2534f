"""The paper's Stage I: the query encoder learns the document encoder's space from texts without labels."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from care_accel.encoding import DualEncoder
from care_accel.encoding.sources import Sources
from care_accel.training.data import read_texts
from care_accel.training.fitting import fit
from care_accel.training.losses import Alignment
from care_accel.training.recipe import DataFile, Stage
from care_accel.training.router import collect, trainable

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

# Texts encoded between two writes: what a run that is killed encodes again at most.
_CHUNK = 8192


def train_alignment(model: DualEncoder, stage: Stage, data_dir: Path, work: Path, seed: int) -> DualEncoder:
    """Train the query encoder towards the document encoder's vector of the same text.

    The document encoder is frozen: its vectors are computed once and kept below ``work``. Every text of the
    stage's files is used, whatever its field. See `train_joint` for the parameters.
    """
    teacher = _with_limit(model, stage.max_document_tokens)
    tables = {
        f"{position} {source.file}": _load_table(teacher, source, data_dir, work / "vectors" / str(position))
        for position, source in enumerate(stage.data)
    }
    library_model = trainable(model, stage, ["query"])
    loss = Alignment(library_model, stage.temperature, stage.info_nce_weight, stage.mse_weight)
    fit(library_model, tables, loss, stage, work, seed)
    return collect(library_model, model, work, ["query"])


def _with_limit(model: DualEncoder, max_tokens: int) -> DualEncoder:
    """Return a model whose document encoder sees as much of a text as the query encoder in training."""
    source = model.source("document")
    spec = dataclasses.replace(source.spec, max_tokens=min(max_tokens, source.spec.max_tokens))
    return DualEncoder(Sources(model.name, model.source("query"), dataclasses.replace(source, spec=spec)))


def _load_table(teacher: DualEncoder, source: DataFile, data_dir: Path, folder: Path) -> Dataset:
    """Return the texts of a file as queries, with the document encoder's vector of each as its label."""
    from datasets import Dataset, Features, List, Value, concatenate_datasets, load_from_disk

    texts = list(dict.fromkeys(read_texts(data_dir / source.file)))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    features = Features({"query": Value("string"), "label": List(Value("float32"), length=teacher.width)})
    parts = []
    for start in range(0, len(texts), _CHUNK):
        part, chunk = folder / str(start), texts[start : start + _CHUNK]
        if not part.is_dir():
            vectors = teacher.encode_document(chunk, task=source.task, show_progress=True)
            queries = [teacher.spec("query").format(text, source.task) for text in chunk]
            temporary = folder / f"{start}.tmp"
            shutil.rmtree(temporary, ignore_errors=True)
            Dataset.from_dict({"query": queries, "label": vectors}, features=features).save_to_disk(temporary)
            os.replace(temporary, part)
            log.info("%s: %d of %d texts encoded", source.file, start + len(chunk), len(texts))
        parts.append(load_from_disk(part))
    return concatenate_datasets(parts)
