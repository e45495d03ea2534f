"""Real documents: hits are those of a `Retriever` over the vectors of the table, before and after random changes."""

import gzip
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest

from care_accel import Collection, DualEncoder, ExactIndex, Retriever

SET = Path(os.environ.get("CARE_DATA", "nowhere")).resolve() / "retrieval" / "cmedir"
# Calls of upsert and delete, and documents at first; all 29,037 by CARE_DOCUMENTS.
CHANGES = int(os.environ.get("CARE_CHANGES", "84"))
DOCUMENTS = int(os.environ.get("CARE_DOCUMENTS", "600"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not SET.is_dir(), reason="no data set: set CARE_DATA to a folder with retrieval/cmedir"
    ),
]


def texts(name):
    with gzip.open(SET / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def check(collection, expected, queries):
    """The table is the dict, and every hit, score and row is that of a retriever over its vectors."""
    import lance

    table = lance.dataset(f"{collection.uri}/documents.lance").to_table(columns=["id", "text", "_vector"])
    table = table.sort_by("id")  # a retriever orders equal scores by position
    ids, vectors = table["id"].to_pylist(), table["_vector"].combine_chunks().flatten().to_numpy()
    assert len(ids) == len(expected) == len(collection)
    assert dict(zip(ids, table["text"].to_pylist(), strict=True)) == expected
    index = ExactIndex(collection.manifest.width)
    index.add(vectors.reshape(len(ids), -1).copy())
    documents = [{"id": name, "title": "", "text": expected[name]} for name in ids]
    retriever = Retriever(collection.model, index, documents)
    for found, wanted in zip(collection.search(queries), retriever.search(queries), strict=True):
        assert [(hit.id, hit.score, hit.document) for hit in found] == [
            (hit.document["id"], hit.score, hit.document) for hit in wanted
        ]
    scores = vectors.reshape(len(ids), -1).astype(np.float64) @ collection.model.encode_query(queries[0])
    assert collection.search(queries[0])[0].score == pytest.approx(scores.max(), abs=1e-6)


def test_hits_are_a_retriever_s_before_and_after_random_changes(tmp_path):
    chance, corpus, queries = random.Random(5), texts("corpus.jsonl.gz"), texts("queries.jsonl.gz")[:50]
    expected = {f"d{i}": text for i, text in enumerate(corpus[:DOCUMENTS])}
    names = [*expected, *(f"new{i}" for i in range(len(expected) // 3))]
    collection = Collection.create(tmp_path / "c", DualEncoder.from_pretrained("care-mini", dtype="int8"))
    collection.upsert({"id": name, "text": text} for name, text in expected.items())
    check(collection, expected, queries)
    for change in range(CHANGES):
        some = chance.sample(names, chance.randrange(1, 5))
        if chance.random() < 0.6:
            rows = [{"id": name, "text": chance.choice(corpus)} for name in some]
            collection.upsert(rows)
            expected |= {row["id"]: row["text"] for row in rows}
        else:
            there = expected.keys() & set(some)
            assert collection.delete(some) == len(there)
            expected = {name: text for name, text in expected.items() if name not in there}
        if change == CHANGES // 2:
            collection.compact(keep_days=0)
            check(collection, expected, queries)
    check(collection, expected, queries)
    check(Collection.open(tmp_path / "c", index_dir=tmp_path / "made-again"), expected, queries)
    assert collection.verify(encode=20).ok
