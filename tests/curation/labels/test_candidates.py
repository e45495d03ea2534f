import json

import pytest

from care_accel import CareError, DualEncoder
from care_accel.curation.config import Candidates
from care_accel.curation.labels import candidates
from care_accel.curation.labels.candidates import make_pools, read_pools
from care_accel.curation.steps import no_progress

from ..conftest import DOCUMENTS, QUERIES


def pools(**options):
    config = Candidates(**{"retrievers": ["bm25"], "depth": 4, "pool": 4, **options})
    return {pool.query: pool for pool in make_pools(config, QUERIES, DOCUMENTS, no_progress)}


def test_the_best_document_comes_first_and_ranks_are_from_1():
    pool = pools()["q1"]
    assert pool.documents[0] == "d1"
    assert pool.ranks == {"bm25": list(range(1, len(pool.documents) + 1))}


def test_documents_of_the_same_text_are_judged_once():
    found = pools(deduplicate="exact")["q0"]
    assert {"d0", "d4"} & set(found.documents) == {found.documents[0]}
    assert found.duplicates == {found.documents[0]: sorted({"d0", "d4"} - {found.documents[0]})}
    both = pools(deduplicate="none")["q0"]
    assert {"d0", "d4"} <= set(both.documents)
    assert both.duplicates == {}
    assert pools(deduplicate="near")["q0"].duplicates == found.duplicates


def test_a_pool_is_no_larger_than_asked_for():
    assert all(len(pool.documents) <= 1 for pool in pools(pool=1).values())


def test_rankings_are_fused_by_reciprocal_rank(monkeypatch):
    import numpy as np

    order = {"one": [0, 1, 2], "two": [2, 1, 3]}
    monkeypatch.setattr(
        candidates, "retrieve", lambda name, queries, *_: np.array([order[name]] * len(queries))
    )
    found = pools(retrievers=["one", "two"], depth=3, pool=10, constant=1, deduplicate="none")["q0"]
    # d2: 1/4 + 1/2, d1: 1/3 + 1/3, d0: 1/2, d3: 1/4
    assert found.documents == ["d2", "d1", "d0", "d3"]
    assert found.ranks == {"one": [3, 2, 1, None], "two": [1, 2, None, 3]}


def test_a_dual_encoder_is_a_retriever_too(embedded_model):
    found = pools(retrievers=["bm25", "care-mini"])
    assert found["q1"].documents[0] == "d1"
    assert set(found["q1"].ranks) == {"bm25", "care-mini"}


def test_documents_are_encoded_once_for_all_runs(workplace, embedded_model, monkeypatch):
    encoded = []
    encode = DualEncoder.encode_document

    def counted(model, texts, **options):
        encoded.extend(texts)
        return encode(model, texts, **options)

    monkeypatch.setattr(DualEncoder, "encode_document", counted)
    place = workplace(candidates={"retrievers": ["care-mini"], "depth": 4, "pool": 4})
    candidates.run(place.config, no_progress)
    assert sorted(encoded) == sorted(DOCUMENTS.values())
    rows = [{"_id": key, "text": text} for key, text in {**DOCUMENTS, "d6": "新的文档。"}.items()]
    (place.data / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    candidates.run(place.config, no_progress)
    assert encoded[len(DOCUMENTS) :] == ["新的文档。"]


def test_the_step_writes_what_is_read_back_and_tells_what_it_covers(workplace):
    place = workplace()
    summary = candidates.run(place.config, no_progress)
    written = read_pools(place.output / candidates.FILE)
    assert [pool.query for pool in written] == list(QUERIES)
    assert summary.facts["pairs"] == sum(len(pool.documents) for pool in written)
    # Of the three labelled positives q2's d5 shares no word with its query.
    assert summary.facts["recall of labelled positives"] in ("66.7 %", "100.0 %")
    assert (place.output / candidates.FILE).stat().st_mode & 0o777 == 0o600


def test_without_a_split_every_query_counts(workplace):
    place = workplace(labels={"q0": {"d0": 1}})
    assert candidates.run(place.config, no_progress).facts["queries"] == 1
    place = workplace(labels={"q0": {"d0": 1}}, split=None)
    assert candidates.run(place.config, no_progress).facts["queries"] == len(QUERIES)


def test_qrels_of_trec_s_form_and_a_table_of_queries_are_read(workplace):
    place = workplace(labels={"q0": {"d0": 1}})
    before = candidates.run(place.config, no_progress).facts
    (place.data / "qrels/dev.tsv").unlink()
    (place.data / "qrels/dev.txt").write_text("q0 0 d0 1\n")
    rows = [json.loads(line) for line in (place.data / "queries.jsonl").read_text().splitlines()]
    (place.data / "queries.jsonl").unlink()
    (place.data / "queries.tsv").write_text("".join(f"{row['_id']}\t{row['text']}\n" for row in rows))
    assert candidates.run(place.config, no_progress).facts == before


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("corpus.jsonl", '{"_id": "d0"}', "corpus.jsonl, line 1: 'text' is missing"),
        ("queries.jsonl", None, "queries.jsonl: no such file, nor .jsonl.gz"),
        ("qrels/dev.tsv", "q9\td0\t1", "query 'q9' is not among the queries"),
        ("qrels/dev.tsv", None, "dev.tsv: no such file"),
    ],
)
def test_broken_data_is_named_by_file_and_line(workplace, name, text, words):
    place = workplace()
    file = place.data / name
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    with pytest.raises(CareError) as mistake:
        candidates.run(place.config, no_progress)
    assert words in str(mistake.value)


def test_broken_candidates_are_named_by_file_and_line(tmp_path):
    file = tmp_path / "candidates.jsonl"
    with pytest.raises(CareError, match="run care-accel curate candidates first"):
        read_pools(file)
    file.write_text('{"query": "q", "documents": ["d", "d"]}\n{"query": "q", "documents": []}\n')
    with pytest.raises(CareError, match="line 2: duplicate query 'q'"):
        read_pools(file)
    file.write_text('{"query": "q", "documents": ["d", "d"]}\n')
    assert read_pools(file)[0].documents == ["d"]
