"""Query text to hits with care-mini, one query and 32 at a time: how long it takes, and where the time goes.

Documents are the titles of cmedir (the demo's documents without a data folder), or a million synthetic vectors, larger
than any cache; real queries ask, none twice in a row. Peers: what people write by hand, sentence-transformers' encode
and faiss's flat index, both as shipped, and for many queries with faiss's product by BLAS as well; and over the documents mteb's own search around sentence-transformers, as
shipped and with its faiss index, the documents' vectors at hand.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from time import perf_counter

import numpy as np
import pytest

from bench.inputs import mini
from bench.scan.test_scan import faiss_flat, scanned_bytes
from care_accel import ExactIndex, Retriever
from care_accel.eval.command import DEMO
from care_accel.index.codes import Codes
from care_accel.index.parts import Part

DOCUMENTS = {"smoke": 40, "default": None, "full": None}
SYNTHETIC = {"smoke": 2_000, "default": 1_000_000, "full": 1_000_000}
AT_ONCE = {"smoke": (1, 4), "default": (1, 32), "full": (1, 32)}
# A hand-written search of a million vectors takes some 50 ms for one query, and p99 needs a hundred of them.
SECONDS = {1: 4.0, 32: 1.0}
CHUNK = 100_000
CHECKED = 5
K = 10


class Documents:
    """An index, and the texts of its documents if there are any."""

    def __init__(self, kind, size):
        width = mini.model().width
        self.texts = None
        if kind == "titles":
            self.texts = mini.documents_of(mini.ranking()[1], DOCUMENTS[size])
            chunks = [mini.document_vectors(self.texts)]
        else:
            rng = np.random.default_rng(0)
            counts = np.diff([*range(0, SYNTHETIC[size], CHUNK), SYNTHETIC[size]])
            chunks = (unit(rng.standard_normal((n, width), dtype=np.float32)) for n in counts)
        self.index = ExactIndex(width)
        for chunk in chunks:
            self.index.add(chunk)
        what = "titles" if kind == "titles" else "synthetic vectors"
        self.name = f"{len(self.index):,} {what}"

    @functools.cached_property
    def expected(self):
        """Return what the first queries find, by a float64 product of everything."""
        asked = mini.model().encode_query(mini.queries()[:CHECKED]).astype(np.float64)
        rows = self.index.vectors
        scores = np.concatenate(
            [asked @ rows[at : at + CHUNK].astype(np.float64).T for at in range(0, len(rows), CHUNK)], axis=1
        )
        return np.argsort(-scores, axis=1, kind="stable")[:, :K]

    @functools.cached_property
    def without_int4(self):
        """Return an index of the same vectors and int8 codes."""
        index, (part,) = ExactIndex(self.index.width), self.index._parts
        codes = part.codes
        plain = Codes.from_arrays(part.count, codes.bytes, codes.norms, codes.mean, codes.exponent)
        index._parts = (Part(part.stored, plain),)
        return index


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def ours(int4=True, **options):
    def make(documents):
        index = documents.index if int4 else documents.without_int4
        retriever = Retriever(mini.model(**options), index, documents.texts)

        def search(queries):
            hits, (tokenize, encode, scan) = retriever.search(queries, K, return_timings=True)
            rows = [hits] if isinstance(queries, str) else hits
            return [[hit.id for hit in row] for row in rows], {
                "tokenize": tokenize,
                "encode": encode,
                "scan": scan,
            }

        return search

    return make


def by_hand(blas_threshold=None):
    def make(documents):
        find = faiss_flat(documents.index.vectors, blas_threshold)
        encode = mini.SentenceTransformers()

        def search(queries):
            begun = perf_counter()
            vectors = encode([queries] if isinstance(queries, str) else queries)
            encoded = perf_counter()
            ids = find(vectors)
            return ids.tolist(), {
                "tokenize": encode.tokenize,
                "encode": 1e6 * (encoded - begun) - encode.tokenize,
                "scan": 1e6 * (perf_counter() - encoded),
            }

        return search

    return make


def mteb_search(with_faiss):
    def make(documents):
        pytest.importorskip("mteb", reason="the peer mteb is not installed (extra eval)")
        from datasets import Dataset
        from mteb.models import SearchEncoderWrapper
        from mteb.models.search_encoder_index import FaissSearchIndex
        from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
        from mteb.types import PromptType

        from care_accel.eval.tasks import folder_tasks

        class Encoder(SentenceTransformerEncoderWrapper):
            """Encodes queries only; document vectors, which mteb would encode again for every search, are precomputed."""

            def encode(self, inputs, *, prompt_type=None, **options):
                if prompt_type == PromptType.document:
                    return documents.index.vectors
                return super().encode(inputs, prompt_type=prompt_type, **options)

        class PrebuiltIndex(FaissSearchIndex):
            """Is not rebuilt for every search."""

            def clear(self):
                pass

        encoder = Encoder(mini.SentenceTransformers().model)
        wrapper = SearchEncoderWrapper(encoder, index_backend=PrebuiltIndex(encoder) if with_faiss else None)
        common = {
            "task_metadata": folder_tasks(DEMO, "test", ["retrieval/*"])[0][0].metadata,
            "hf_split": "test",
            "hf_subset": "default",
            "encode_kwargs": {"batch_size": 32, "show_progress_bar": False},
        }
        ids = [str(i) for i in range(len(documents.texts))]
        corpus = Dataset.from_dict({"id": ids, "title": [""] * len(ids), "text": list(documents.texts)})
        wrapper.index(corpus, **common)

        def search(queries):
            asked = [queries] if isinstance(queries, str) else queries
            rows = Dataset.from_dict({"id": list(map(str, range(len(asked)))), "text": asked})
            wrapper.task_corpus = corpus  # a search drops it
            found = wrapper.search(rows, top_k=K, **common)
            return [
                [int(key) for key, _ in sorted(row.items(), key=lambda hit: -hit[1])]
                for row in found.values()
            ], {}

        return search

    return make


OURS = "care_accel, by default"
WITHOUT_INT4 = "care_accel, without int4 codes"  # one query over a large index scans the int8 codes instead
BLAS_ON = "sentence-transformers and faiss, BLAS on"  # what helps many queries at a time
ENGINES = {
    OURS: ours(),
    "care_accel, int8": ours(dtype="int8"),
    WITHOUT_INT4: ours(int4=False),
    "sentence-transformers and faiss": by_hand(),
    BLAS_ON: by_hand(blas_threshold=1),
    "mteb, by default": mteb_search(with_faiss=False),
    "mteb and its faiss index": mteb_search(with_faiss=True),
}


def pytest_generate_tests(metafunc):
    metafunc.parametrize(
        ("kind", "at_once", "engine"),
        [
            (kind, at_once, engine)
            for kind in ("titles", "synthetic")
            for at_once in AT_ONCE[metafunc.config.getoption("--bench-size")]
            for engine in ENGINES
            if kind == "titles" or "mteb" not in engine  # which keeps vectors and texts of all documents
            if at_once > 1 or engine != BLAS_ON
            if engine != WITHOUT_INT4 or (kind == "synthetic" and at_once == 1)
        ],
    )


def test_text_to_hits(measure, cached, bench_size, kind, engine, at_once):
    documents = cached(kind, "documents", lambda: Documents(kind, bench_size))
    search = cached(kind, engine, lambda: ENGINES[engine](documents))
    parts = defaultdict(list)

    def ask(queries):
        ids, timings = search(queries)
        for name, microseconds in timings.items():
            parts[name].append(microseconds)
        return ids

    limit = None
    if engine.startswith("care_accel"):  # of the scan alone
        rows, width = documents.index.vectors.shape
        read = rows * width if engine == WITHOUT_INT4 else scanned_bytes(rows, width, at_once)
        limit = {"read bandwidth": read, "int8 rate": documents.index.vectors.size * at_once}
    measure(
        ask,
        mini.batches(at_once),
        group=f"text to top {K} of {documents.name}, "
        f"{at_once} {'query' if at_once == 1 else 'queries'} at a time",
        name=engine,
        ours=engine == OURS,
        parameters={
            "documents": kind,
            "vectors": len(documents.index),
            "width": documents.index.width,
            "queries": at_once,
            "k": K,
        },
        touched=read if engine.startswith("care_accel") else documents.index.vectors.nbytes,
        limit=limit,
        seconds=0.5 if engine == "mteb, by default" else SECONDS.get(at_once, 1.0),
        exact="int8" not in engine,
    )
    if parts:
        measure.note(
            parts_us={
                name: np.percentile(values, [50, 99]).round(1).tolist() for name, values in parts.items()
            }
        )
    found = search(mini.queries()[:CHECKED])[0]
    overlap = np.mean([len(set(a) & set(b)) / K for a, b in zip(found, documents.expected, strict=True)])
    assert overlap >= (0.8 if "int8" in engine else 0.95)
