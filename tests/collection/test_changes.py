"""Random changes against a plain dict: what is there, and what is found, in the order of float64 scores."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from care_accel import Collection, DualEncoder
from care_accel.collection.cutting.chunker import Chunker

# Steps of each machine, some 7 of 10 of which change documents.
STEPS = int(os.environ.get("CARE_CHANGES", "84"))
WORDS = ["高血压", "糖尿病。", "感冒发热", "儿童咳嗽！", "胃炎；", "骨折", "头痛三天。"]
IDS = [*(f"d{i}" for i in range(8)), "a'b", "😀"]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=4).map("".join)
YEARS = st.none() | st.integers(2000, 2004)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"id": st.sampled_from(IDS), "title": st.sampled_from(["", "门诊"]), "text": TEXTS, "year": YEARS}
    ),
    max_size=6,
)
QUERIES = ["高血压怎么办", "咳嗽"]
FILTERS = {
    None: lambda year: True,
    "year >= 2002": lambda year: (year or 0) >= 2002,
    "year IS NULL": lambda year: year is None,
}
_MODEL = []
_VECTORS = {}


def model():
    if not _MODEL:
        _MODEL.append(DualEncoder.from_pretrained("care-mini"))
    return _MODEL[0]


def vector(text, role):
    if (text, role) not in _VECTORS:
        encode = model().encode_query if role == "query" else model().encode_document
        _VECTORS[text, role] = encode([text])[0].astype(np.float64)
    return _VECTORS[text, role]


class Changes(RuleBasedStateMachine):
    """A collection and the dict that it should be."""

    chunk_tokens = None
    lexical = False

    @initialize()
    def create(self):
        self.folder = Path(tempfile.mkdtemp())
        self.collection = Collection.create(
            self.folder / "c",
            model(),
            fields={"year": "int"},
            chunk_tokens=self.chunk_tokens,
            chunk_overlap=2 if self.chunk_tokens else 0,
            lexical=self.lexical,
        )
        self.chunker = Chunker(self.collection.manifest, model().encoder("document"))
        self.expected = {}

    def teardown(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    @rule(rows=ROWS)
    def upsert(self, rows):
        before = dict(self.expected)
        self.expected |= {row["id"]: row for row in rows}
        done = self.collection.upsert(rows)
        assert done.new == len(self.expected) - len(before)
        assert done.read == len(rows)

    @rule(ids=st.lists(st.sampled_from(IDS), max_size=4))
    def delete(self, ids):
        gone = [self.expected.pop(name) for name in set(ids) & set(self.expected)]
        assert self.collection.delete(ids) == len(gone)

    @rule(year=st.integers(2000, 2004))
    def delete_by_filter(self, year):
        gone = {name for name, row in self.expected.items() if row["year"] == year}
        assert self.collection.delete(filter=f"year = {year}") == len(gone)
        self.expected = {name: row for name, row in self.expected.items() if name not in gone}

    @rule(keep=st.sampled_from([0, 7]))
    def compact(self, keep):
        self.collection.compact(keep_days=keep)

    @rule(without_index=st.booleans())
    def reopen(self, without_index):
        if without_index:
            shutil.rmtree(self.folder / "c" / "index", ignore_errors=True)
        self.collection = Collection.open(self.folder / "c", model=model())

    @precondition(lambda self: self.expected)
    @rule()
    def check(self):
        found = self.collection.verify()
        assert found.ok, found.problems
        assert found.documents == len(self.expected)

    @rule(query=st.sampled_from(QUERIES), k=st.integers(1, 12), where=st.sampled_from(list(FILTERS)))
    def search(self, query, k, where):
        hits = self.collection.search(query, k=k, filter=where)
        expected = self.ranked(query, FILTERS[where])[:k]
        assert [hit.id for hit in hits] == [name for _, name, _ in expected]
        assert [hit.score for hit in hits] == pytest.approx([-score for score, _, _ in expected], abs=1e-6)
        assert [hit.document for hit in hits] == [self.expected[hit.id] for hit in hits]

    def ranked(self, query, keep):
        """Each document with its best chunk, best first: (-score, id, chunk)."""
        best = []
        for name, row in self.expected.items():
            if keep(row["year"]):
                _, texts = self.chunker.cut([row["title"]], [row["text"]])
                # Vectors are float32, and so are products of equal ones: equal texts tie.
                scores = [-float(vector(text, "document") @ vector(query, "query")) for text in texts]
                score, chunk = min((round(score, 9), chunk) for chunk, score in enumerate(scores))
                best.append((score, name, chunk))
        return sorted(best)

    @invariant()
    def has_as_many_documents(self):
        if hasattr(self, "expected"):
            assert len(self.collection) == len(self.expected)


class ChangesInChunks(Changes):
    chunk_tokens = 8


class ChangesWithWords(Changes):
    """With a lexical index: the hits of one that is built of what is there."""

    lexical = True

    @rule(query=st.sampled_from(QUERIES), k=st.integers(1, 12), where=st.sampled_from(list(FILTERS)))
    def search(self, query, k, where):
        hits = self.collection.search(query, k=k, filter=where)
        again = Collection.create(self.folder / "again", model(), fields={"year": "int"}, lexical=True)
        again.upsert(self.expected.values())
        expected = again.search(query, k=k, filter=where)
        shutil.rmtree(self.folder / "again")
        assert [(hit.id, hit.score) for hit in hits] == [(hit.id, hit.score) for hit in expected]


_SETTINGS = settings(
    max_examples=-(-STEPS // 14),
    stateful_step_count=14,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
TestChanges = Changes.TestCase
TestChanges.settings = _SETTINGS
TestChangesWithWords = ChangesWithWords.TestCase
TestChangesWithWords.settings = _SETTINGS
TestChangesInChunks = ChangesInChunks.TestCase
TestChangesInChunks.settings = _SETTINGS
