"""Query text to hits with care-mini, one query at a time: where the time goes, at the median and at the 99th percentile.

Documents are the titles of cmedir and its real queries ask, or the demo's without a data folder. Peer: what people
write by hand, sentence-transformers' encode and faiss, as both are shipped.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from care_accel import DualEncoder, Retriever
from care_accel.eval.command import DEMO
from care_accel.files import find_plain_or_gzip, read_lines

sys.path.insert(0, str(Path(__file__).parent))

DOCUMENTS = {"smoke": 40, "default": 5_000, "full": 10**9}
QUERIES = {"smoke": 20, "default": 300, "full": 1000}
K = 10


@pytest.fixture(scope="module")
def texts(bench_size):
    data = Path(os.environ.get("CARE_DATA", "")) / "retrieval" / "cmedir"
    folder = data if data.is_dir() else DEMO / "retrieval" / "care-demo"
    rows = [
        [json.loads(line) for _, line in read_lines(find_plain_or_gzip(folder / name))]
        for name in ("corpus.jsonl", "queries.jsonl")
    ]
    documents, queries = ([f"{row.get('title', '')}{row['text']}" for row in some] for some in rows)
    return documents[: DOCUMENTS[bench_size]], queries[: QUERIES[bench_size]]


@pytest.fixture(scope="module")
def built(texts):
    return Retriever.from_documents(DualEncoder.from_pretrained("care-mini"), texts[0])


def ours(**options):
    def make(built):
        model = DualEncoder.from_pretrained("care-mini", **options)
        retriever = Retriever(model, built.index, built.documents)

        def search(query):
            hits, timings = retriever.search(query, K, return_timings=True)
            return [hit.id for hit in hits], timings._asdict()

        return search

    return make


def by_hand(built):
    faiss = pytest.importorskip("faiss", reason="the peer faiss is not installed (extra bench)")
    from test_encoder import sentence_transformers_encode

    encode = sentence_transformers_encode()
    index = faiss.IndexFlatIP(built.index.width)
    index.add(np.ascontiguousarray(built.index.vectors))

    def search(query):
        started = perf_counter()
        vectors = encode([query])
        encoded = perf_counter()
        ids = index.search(vectors, K)[1][0]
        return ids.tolist(), {
            "tokenise and encode": 1e6 * (encoded - started),
            "scan": 1e6 * (perf_counter() - encoded),
        }

    return search


OURS = "care_accel, by default"
ENGINES = {
    OURS: ours(),
    "care_accel, int8": ours(dtype="int8"),
    "care_accel, PyTorch": ours(runtime="pytorch"),
    "sentence-transformers and faiss": by_hand,
}


@pytest.mark.parametrize("engine", ENGINES)
def test_query_to_hits(benchmark, texts, built, engine):
    documents, queries = texts
    search = ENGINES[engine](built)
    asked, parts, exact = iter(queries), {}, []

    def next_query():
        return (next(asked),), {}

    def ask(query):
        ids, timings = search(query)
        exact.append((query, ids))
        for name, microseconds in timings.items():
            parts.setdefault(name, []).append(microseconds)

    for query in queries[:5]:
        search(query)
    benchmark.group = f"one query to {K} hits of {len(documents):,} titles, care-mini"
    benchmark.extra_info |= {"name": engine, "ours": engine == OURS}
    benchmark.pedantic(ask, setup=next_query, rounds=len(queries))
    shares = {name: np.percentile(values, [50, 99]).round(1).tolist() for name, values in parts.items()}
    benchmark.extra_info |= {
        "p50_p99_us": shares,
        "note": ", ".join(f"{name} {p50:.0f} / {p99:.0f} us" for name, (p50, p99) in shares.items()),
    }
    found = np.array([ids for _, ids in exact])
    expected = built.index.search(built.model.encode_query([query for query, _ in exact]), K)[1]
    overlap = np.mean([len(set(a) & set(b)) / K for a, b in zip(found, expected, strict=True)])
    assert overlap > (0.95 if "int8" in engine else 0.999)
