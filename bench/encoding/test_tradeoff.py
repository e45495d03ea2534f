"""Accuracy against latency and memory: each configuration of care-mini over real documents.

One query at a time, text to the best ten documents. The rows are the query encoder in float32 and int8 over indexes of
every width that the model was trained for; the same in PyTorch; its symmetric twin, whose document encoder also encodes queries;
BM25 alone; BM25 and vectors. Accuracy is of all queries of the task. ``bytes`` is the index, ``model_bytes`` the
network that a server of queries has in memory.
"""

from __future__ import annotations

import functools
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bench.inputs import mini, texts
from bench.scan.test_scan import index_bytes
from care_accel import ExactIndex, Retriever
from care_accel.eval.statistics.uncertainty import query_scores
from care_accel.index import BM25Index

K = 10
METRIC, METRIC_NAME = f"ndcg_at_{K}", f"nDCG@{K}"
WIDTHS = (128, 256)
# Documents per task.
MAX_DOCUMENTS = {"smoke": 60, "default": None, "full": None}


@dataclass(frozen=True)
class Configuration:
    """A search configuration: query encoder, precision, runtime, width, with or without a lexical index."""

    family: str
    precision: str = "float32"
    width: int | None = None
    runtime: str = "auto"

    @functools.cached_property
    def model(self):
        """The model that encodes queries; None for BM25 alone."""
        if self.family == "lexical":
            return None
        options = {"runtime": self.runtime, "width": self.width}
        if self.precision == "int8":
            options["dtype"] = "int8"
        options = {name: value for name, value in options.items() if value not in (None, "auto")}
        model = mini.model(**options)
        return model.twin() if self.family == "symmetric" else model


OURS = "care-mini"
CONFIGURATIONS = {
    OURS: Configuration("asymmetric"),
    "care-mini, int8": Configuration("asymmetric", "int8"),
    "care-mini, PyTorch": Configuration("asymmetric", runtime="pytorch"),
    **{
        f"care-mini, width {width}{suffix}": Configuration("asymmetric", precision, width)
        for width in WIDTHS
        for precision, suffix in (("float32", ""), ("int8", ", int8"))
    },
    "symmetric twin": Configuration("symmetric", runtime="pytorch"),
    "symmetric twin, native": Configuration("symmetric"),
    "BM25": Configuration("lexical"),
    "care-mini and BM25": Configuration("hybrid"),
    "care-mini and BM25, int8": Configuration("hybrid", "int8"),
}


class Task:
    """A retrieval set with the vectors and the lexical index of its documents, and the rankings of all queries."""

    def __init__(self, name, most=None):
        self.name, rows = mini.ranking(name)
        self.documents = mini.documents_of(rows, most)
        self.ids = list(rows.documents)[:most]
        here = set(self.ids)
        self.relevant = {query: grades for query, grades in rows.relevant.items() if here & grades.keys()}
        self.queries = {query: text for query, text in rows.queries.items() if query in self.relevant}
        self._indices = {}

    @functools.cached_property
    def vectors(self):
        return mini.document_vectors(self.documents)

    def index(self, width):
        if width not in self._indices:
            self._indices[width] = ExactIndex(width)
            self._indices[width].add(np.ascontiguousarray(self.vectors[:, :width]))
        return self._indices[width]

    @functools.cached_property
    def lexical(self):
        pytest.importorskip("bm25s", reason="the peer bm25s is not installed (extra eval)")
        return BM25Index(self.documents)

    @functools.cached_property
    def lexical_bytes(self):
        with tempfile.TemporaryDirectory(prefix="care-bench-") as folder:
            self.lexical.save(Path(folder) / "lexical")
            return sum(f.stat().st_size for f in (Path(folder) / "lexical").rglob("*") if f.is_file())

    def score(self, found):
        """Return the mean of the metric over all queries."""
        scores, ids = found
        ranking = {
            query: {self.ids[i]: float(s) for i, s in zip(row, values, strict=True) if i >= 0}
            for query, row, values in zip(self.queries, ids, scores, strict=True)
        }
        each = query_scores(METRIC, self.relevant, ranking)
        return float(np.mean([each.get(query, 0.0) for query in self.queries]))


class Search:
    """Searches a task in one configuration: one query to ids and times, all queries to a score; and its memory."""

    def __init__(self, configuration, task):
        self.configuration, self.task = configuration, task
        self.lexical = task.lexical if configuration.family in ("lexical", "hybrid") else None
        self.width = 0 if configuration.model is None else configuration.model.width
        if configuration.model is not None:
            self.retriever = Retriever(configuration.model, task.index(self.width), lexical=self.lexical)

    def __call__(self, query):
        if self.configuration.model is None:
            return self.lexical.search([query], K)[1][0].tolist(), {}
        hits, (tokenize, encode, scan) = self.retriever.search(query, K, return_timings=True)
        return [hit.id for hit in hits], {"tokenize": tokenize, "encode": encode, "scan": scan}

    @functools.cached_property
    def found(self):
        """Scores and ids of all queries."""
        queries = list(self.task.queries.values())
        if self.configuration.model is None:
            return self.lexical.search(queries, K)
        return self.retriever.search_vectors(self.configuration.model.encode_query(queries), K, queries)[:2]

    @functools.cached_property
    def quality(self):
        score = self.task.score(self.found)
        return {
            "metric": METRIC_NAME,
            "task": self.task.name,
            "score": score,
            "queries": len(self.task.queries),
        }

    @functools.cached_property
    def memory(self):
        """Return the bytes of the index and of the query network."""
        index = self.task.lexical_bytes if self.lexical is not None else 0
        if self.configuration.model is None:
            return {"bytes": index, "model_bytes": 0}
        index += index_bytes(self.retriever.index)
        return {"bytes": index, "model_bytes": mini.network_bytes(self.configuration.model)}


def pytest_generate_tests(metafunc):
    # Encoding the doctors' answers of the other sets takes minutes.
    full = metafunc.config.getoption("--bench-size") == "full"
    sets = sorted(f.name for f in (texts.data_folder() / "retrieval").iterdir() if f.is_dir())
    metafunc.parametrize("task", sets if full else [None], ids=str)
    metafunc.parametrize("engine", CONFIGURATIONS)


def test_tradeoff(measure, cached, bench_size, task, engine):
    configuration = CONFIGURATIONS[engine]
    there = cached(task, "task", lambda: Task(task, MAX_DOCUMENTS[bench_size]))
    queries = list(there.queries.values())
    search = cached(task, engine, lambda: Search(configuration, there))
    parts = defaultdict(list)

    def ask(query):
        ids, timings = search(query)
        for name, microseconds in timings.items():
            parts[name].append(microseconds)
        return ids

    measure(
        ask,
        [(query,) for query in queries],
        group=f"one query to the best {K} of {len(there.documents):,} documents, {there.name}",
        name=engine,
        ours=engine == OURS,
        parameters={
            "family": configuration.family,
            "width": search.width,
            "precision": configuration.precision,
            "runtime": "bm25s"
            if configuration.model is None
            else configuration.model.choice("query").runtime,
            "documents": len(there.documents),
            "queries": 1,
            "k": K,
        },
        exact=configuration.precision != "int8",
        quality=search.quality,
        **search.memory,
    )
    if parts:
        measure.note(
            parts_us={name: np.percentile(some, [50, 99]).round(1).tolist() for name, some in parts.items()}
        )
    # A query alone finds what it finds among all.
    for place in range(3):
        assert search(queries[place])[0] == [i for i in search.found[1][place].tolist() if i >= 0]
    if configuration.width is not None:  # a narrower index holds what a wide one finds by its first values
        wide = there.index(there.vectors.shape[1])
        vectors = configuration.model.encode_query(queries[:3])
        np.testing.assert_array_equal(
            wide.search(vectors, K, width=configuration.width)[1], search.found[1][:3]
        )
