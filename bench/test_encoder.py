"""Token ids to vectors on the CPU: CARE's query network at true size, beside what an engineer would run it with.

The weights are random: times are those of the trained network, accuracy in int8 is not. The limit is the packed
weights at the read bandwidth, or their products at the int8 rate of torch's own matrix product, whichever takes longer,
both measured in the same run. How far a vector moves when its text shares a batch is printed beside each time.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from care_accel import DualEncoder
from care_accel.encoding.batching import plan_batches
from care_accel.eval.command import DEMO
from care_accel.files import find_plain_or_gzip, read_lines

sys.path.insert(0, str(Path(__file__).parent))
import networks

# queries, tokens of each
SHAPES = {
    "smoke": [(2, 8)],
    "default": [(1, 16), (8, 16), (32, 16)],
    "full": [(queries, tokens) for queries in (1, 8, 32) for tokens in (8, 16, 32, 64)],
}
MIXED = {"smoke": 20, "default": 250, "full": 1000}
OURS = "care_accel, native int8"
ENGINES = {
    OURS: lambda name: networks.native(name, "int8"),
    "care_accel, native float32": networks.native,
    "care_accel, PyTorch": networks.pytorch,
    "PyTorch eager": networks.pytorch_eager,
    "ONNX Runtime float32": networks.onnxruntime,
    "ONNX Runtime dynamic int8": networks.onnxruntime_int8,
    "OpenVINO, by default": networks.openvino,
}
# The query network, and the document network asked to encode queries, in one precision and runtime.
ASYMMETRY = {"gte, 305M": networks.pytorch, "qwen3, 0.6B": networks.pytorch}


def pytest_generate_tests(metafunc):
    size = metafunc.config.getoption("--bench-size")
    if "shape" in metafunc.fixturenames:
        shapes = SHAPES[size] if metafunc.function is test_query_network else SHAPES[size][:2]
        metafunc.parametrize("shape", shapes, ids=lambda s: f"{s[0]}x{s[1]}")
    for name, values in (("engine", ENGINES), ("asked", ASYMMETRY), ("way", WAYS), ("side", SIDES)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, values)


def sized(name, bench_size):
    return name.split(",")[0] + ", small" if bench_size == "smoke" else name


@pytest.fixture(scope="module")
def engines():
    """Keep each engine once it is made: weights at true size take a while."""
    made = {}
    yield made
    made.clear()
    networks.network.cache_clear()


def test_query_network(benchmark, bench_size, engines, engine, shape, read_bandwidth, int8_rate):
    name = sized("gte, 305M", bench_size)
    if engine not in engines:
        engines[engine] = ENGINES[engine](name)
    encode = engines[engine]
    ids, mask = networks.random_tokens(*shape)
    benchmark.group = f"{name}: {shape[0]} x {shape[1]} tokens"
    benchmark.extra_info |= {"name": engine, "ours": engine == OURS}
    found = benchmark(encode, ids, mask)

    moved = float(np.abs(found[:1] - encode(ids[:1], mask[:1])).max())
    benchmark.extra_info |= {"moved_by_batch": moved, "note": f"a batch moves a vector by {moved:.0e}"}
    if engine.startswith("care_accel"):
        assert moved < 1e-5
    if engine == OURS:
        products = encode.nbytes * ids.size
        benchmark.extra_info["share_of_limit"] = max(encode.nbytes / read_bandwidth, products / int8_rate)
    if "exact" not in engines:
        engines["exact"] = networks.pytorch_eager(name)
    exact = engines["exact"](ids[:4], mask[:4])
    cosines = (found[:4] * exact).sum(axis=1)
    cosines /= np.linalg.norm(found[:4], axis=1) * np.linalg.norm(exact, axis=1)
    assert cosines.min() > (0.97 if "int8" in engine or "OpenVINO" in engine else 0.9999)


def ragged(encode, rows):
    """Encode texts as the package batches them."""
    for batch in plan_batches([len(row) for row in rows], 64, 16_384):
        longest = max(len(rows[i]) for i in batch)
        ids = np.zeros((len(batch), longest), dtype=np.int64)
        mask = np.zeros_like(ids)
        for place, i in enumerate(batch):
            ids[place, : len(rows[i])] = rows[i]
            mask[place, : len(rows[i])] = 1
        encode(ids, mask)


def padded(encode, rows, longest=None):
    """Compute every text of a batch at the length of its longest, or all at one length; padding is computed."""
    for start in range(0, len(rows), 64):
        batch = rows[start : start + 64]
        length = longest or max(map(len, batch))
        encode(*networks.random_tokens(len(batch), length))


WAYS = {
    "only tokens": ragged,
    "padded to a batch's longest": padded,
    "padded to the longest of all": lambda encode, rows: padded(encode, rows, max(map(len, rows))),
}


def real_queries(count):
    """Return token ids of real queries, or of the demo's without a data folder, spread over all of them."""
    data = Path(os.environ.get("CARE_DATA", "")) / "retrieval"
    texts = []
    for folder in sorted((data if data.is_dir() else DEMO / "retrieval").iterdir()):
        file = find_plain_or_gzip(folder / "queries.jsonl")
        texts += [json.loads(line)["text"] for _, line in read_lines(file)]
    tokenize = DualEncoder.from_pretrained("care-mini").encoder("query").tokenize
    return tokenize(texts[:: max(1, len(texts) // count)][:count])


def test_mixed_lengths(benchmark, bench_size, engines, way):
    name = sized("gte, 305M", bench_size)
    if OURS not in engines:
        engines[OURS] = ENGINES[OURS](name)
    rows = real_queries(MIXED[bench_size])
    lengths = list(map(len, rows))
    benchmark.group = f"{name}, native int8: {len(rows)} real queries in batches of 64"
    benchmark.extra_info |= {
        "name": way,
        "ours": way == "only tokens",
        "note": f"{np.mean(lengths):.1f} tokens in the mean, {max(lengths)} at most",
    }
    benchmark.pedantic(WAYS[way], args=(engines[OURS], rows), rounds=3)


def test_asymmetry_at_true_size(benchmark, bench_size, engines, asked, shape):
    name = sized(asked, bench_size)
    if asked not in engines:
        engines[asked] = ASYMMETRY[asked](name)
    benchmark.group = f"{shape[0]} x {shape[1]} tokens by query network, PyTorch float32"
    benchmark.extra_info |= {"name": name, "ours": asked.startswith("gte")}
    stats = benchmark(engines[asked], *networks.random_tokens(*shape))
    assert np.isfinite(stats).all()
    note_rates(benchmark, shape[0])


SIDES = {
    "query encoder, native": lambda: DualEncoder.from_pretrained("care-mini").encode_query,
    "query encoder, PyTorch": lambda: (
        DualEncoder.from_pretrained("care-mini", runtime="pytorch").encode_query
    ),
    "document encoder, PyTorch": lambda: (
        DualEncoder.from_pretrained("care-mini", runtime="pytorch").twin().encode_query
    ),
    "sentence-transformers": lambda: sentence_transformers_encode(),
}


@pytest.mark.parametrize("count", [1, 8, 32])
def test_asymmetry_of_care_mini(benchmark, side, count):
    encode = SIDES[side]()
    file = DEMO / "retrieval" / "care-demo" / "queries.jsonl"
    texts = [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]
    place = 0

    def next_batch():
        nonlocal place
        place = place + count if place + 2 * count <= len(texts) else 0
        return (texts[place : place + count],), {}

    benchmark.group = f"care-mini, text to vectors: {count} {'query' if count == 1 else 'queries'} at a time"
    benchmark.extra_info |= {"name": side, "ours": side == "query encoder, PyTorch"}
    benchmark.pedantic(encode, setup=next_batch, rounds=100, warmup_rounds=5)
    note_rates(benchmark, count)
    if side == "sentence-transformers":
        expected = DualEncoder.from_pretrained("care-mini").encode_query(texts[:4])
        np.testing.assert_allclose(encode(texts[:4]), expected, atol=1e-4)


def note_rates(benchmark, queries):
    if benchmark.stats is not None:
        median = benchmark.stats.stats.median
        benchmark.extra_info["note"] = f"p50 {1e3 * median:.2f} ms, {queries / median:,.0f} queries a second"


def sentence_transformers_encode():
    library = pytest.importorskip("sentence_transformers", reason="the peer is not installed (extra train)")
    from sentence_transformers.base import modules as base
    from sentence_transformers.sentence_transformer import modules

    model = DualEncoder.from_pretrained("care-mini")
    checkpoint, spec = model.source("query").checkpoint, model.spec("query")
    transformer = base.Transformer(
        str(checkpoint.folder), max_seq_length=spec.max_tokens, model_kwargs={"dtype": spec.dtype}
    )
    pooling = modules.Pooling(checkpoint.hidden_size, pooling_mode=spec.pooling)
    peer = library.SentenceTransformer(modules=[transformer, pooling, base.Normalize()], device="cpu")
    return lambda texts: peer.encode(texts, batch_size=len(texts), show_progress_bar=False)
