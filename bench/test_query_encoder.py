"""A query to its vector: the small query encoder beside its symmetric twin, whose document encoder asks too.

Queries are those of the embedded benchmark. Peer: sentence-transformers' own encode of the same query network.
"""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from care_accel import DualEncoder
from care_accel.eval.command import DEMO

# queries at a time
CASES = {"smoke": [1, 4], "default": [1, 8, 32], "full": [1, 8, 32, 128]}


@pytest.fixture(scope="module")
def model():
    return DualEncoder.from_pretrained("care-mini")


@pytest.fixture(scope="module")
def queries():
    file = DEMO / "retrieval" / "care-demo" / "queries.jsonl"
    return [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]


def sentence_transformers_encode(model):
    library = pytest.importorskip("sentence_transformers", reason="the peer is not installed (extra train)")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    base = pytest.importorskip("sentence_transformers.base.modules")
    checkpoint, spec = model.source("query").checkpoint, model.spec("query")
    transformer = base.Transformer(
        str(checkpoint.folder), max_seq_length=spec.max_tokens, model_kwargs={"dtype": spec.dtype}
    )
    pooling = modules.Pooling(checkpoint.hidden_size, pooling_mode=spec.pooling)
    peer = library.SentenceTransformer(modules=[transformer, pooling, base.Normalize()], device="cpu")
    return lambda texts: peer.encode(texts, batch_size=len(texts), show_progress_bar=False)


ENGINES = {
    "care_accel, query encoder": lambda model: model.encode_query,
    "care_accel, symmetric twin": lambda model: model.twin().encode_query,
    "sentence-transformers": sentence_transformers_encode,
}


def pytest_generate_tests(metafunc):
    metafunc.parametrize("count", CASES[metafunc.config.getoption("--bench-size")])
    metafunc.parametrize("engine", ENGINES)


def test_encode_query(benchmark, model, queries, engine, count):
    encode = ENGINES[engine](model)
    batches = itertools.cycle(_batches(queries, count))
    benchmark.group = f"{count} {'query' if count == 1 else 'queries'} of the demo at a time"
    benchmark.extra_info |= {"name": engine, "ours": engine == "care_accel, query encoder"}
    benchmark.pedantic(lambda: encode(next(batches)), rounds=60, warmup_rounds=5)
    if engine == "sentence-transformers":
        np.testing.assert_allclose(encode(queries[:4]), model.encode_query(queries[:4]), atol=1e-4)


def _batches(texts, count):
    return [texts[start : start + count] for start in range(0, len(texts) - count + 1, count)]
