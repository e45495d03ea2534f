import json

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from care_accel.errors import CareError
from care_accel.eval.data.reading import (
    read_documents,
    read_judgements,
    read_lists,
    read_pairs,
    read_queries,
    read_ranking,
)

IDS = {"q0", "q1", "d0", "d1", "7", "8"}


def write(folder, name, content):
    """Write text, JSON lines of a list of dicts, or Parquet of the same."""
    file = folder / name
    if name.endswith(".parquet"):
        parquet.write_table(pa.Table.from_pylist(content), file)
    elif isinstance(content, str):
        file.write_text(content, encoding="utf-8")
    else:
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), "utf-8")
    return file


def judgements(folder, content, name="dev.tsv"):
    return read_judgements(write(folder, name, content), IDS, IDS)


EXPECTED = {"q0": {"d0": 1, "d1": 0}, "q1": {"d1": 2}}
ROWS = [
    {"query-id": "q0", "corpus-id": "d0", "score": 1},
    {"query-id": "q0", "corpus-id": "d1", "score": 0},
    {"query-id": "q1", "corpus-id": "d1", "score": 2},
]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dev.tsv", "query-id\tcorpus-id\tscore\nq0\td0\t1\nq0\td1\t0\nq1\td1\t2\n"),
        ("dev.tsv", "q0\td0\t1\nq0\td1\t0\nq1\td1\t2\n"),
        ("dev.tsv", "\ufeffq0\td0\t1\r\nq0\td1\t0\r\n\r\nq1\td1\t2\r\n"),
        ("dev.tsv", "query-id\tcorpus-id\tscore\nq0\td0\t1.0\nq0\td1\t0.0\nq1\td1\t2.0\n"),
        ("dev.tsv", "corpus-id\tquery-id\tscore\nd0\tq0\t1\nd1\tq0\t0\nd1\tq1\t2\n"),
        ("dev.tsv", "qid\tpid\tlabel\nq0\td0\t1\nq0\td1\t0\nq1\td1\t2\n"),
        ("dev.tsv", "q0\t0\td0\t1\nq0\t0\td1\t0\nq1\t0\td1\t2\n"),
        ("dev.tsv", "q0 0 d0 1\nq0 0 d1 0\nq1 Q0 d1 2\n"),
        ("dev.txt", "q0   0  d0 1 \nq0 0 d1 0\n q1 0 d1 2.\n"),
        ("dev.trec", "q0\t0\td0\t1\nq0 0 d1 0\nq1 0 d1 2\n"),
        ("dev.jsonl", ROWS),
        ("dev.jsonl", [{**row, "score": float(row["score"])} for row in ROWS]),
        (
            "dev.jsonl",
            [{"query_id": r["query-id"], "doc_id": r["corpus-id"], "relevance": r["score"]} for r in ROWS],
        ),
        ("dev.parquet", ROWS),
        ("dev.parquet", [{**row, "score": float(row["score"])} for row in ROWS]),
        ("dev.parquet", [{"qid": r["query-id"], "pid": r["corpus-id"], "score": r["score"]} for r in ROWS]),
    ],
)
def test_judgements_of_every_form_are_the_same(tmp_path, name, content):
    assert judgements(tmp_path, content, name) == EXPECTED


def test_ids_that_are_numbers_stay_text(tmp_path):
    rows = [{"query-id": 7, "corpus-id": 8, "score": 1}]
    for name in ("dev.jsonl", "dev.parquet"):
        assert judgements(tmp_path, rows, name) == {"7": {"8": 1}}
    assert judgements(tmp_path, "7 0 8 1\n") == {"7": {"8": 1}}


@pytest.mark.parametrize(
    ("content", "place", "words"),
    [
        (
            "q0 d0 1\n",
            "line 1",
            "3 columns; expected query-id, corpus-id and score separated by tabs, or TREC's",
        ),
        ("q0\td0\n", "line 1", "2 columns; expected"),
        ("q0\td0\t1\nq0 0 d1 1\n", "line 2", "4 columns; the lines before it have 3"),
        ("q0 0 d0 1\nq0\td1\t1\n", "line 2", "3 columns; the lines before it have 4"),
        ("q0 0 d0 0.5\n", "line 1", "score '0.5' is not an integer; grades are whole numbers"),
        ("q0 0 d0 nan\n", "line 1", "score 'nan' is not an integer"),
        ("q0 0 d0 1e0\n", "line 1", "score '1e0' is not an integer"),
        ("q0 0 d0 1\n\nq9 0 d0 1\n", "line 3", "query 'q9' is not among the queries"),
        ("q0 0 d0 1\nq0 0 d0 2\n", "line 2", "a different score in an earlier line"),
        ([{"query-id": "q0", "corpus-id": "d0", "score": 0.5}], "line 1", "score '0.5' is not an integer"),
        ([{"query-id": "q0", "corpus-id": "d0", "score": True}], "line 1", "score 'True' is not an integer"),
        ([{"query-id": "q0", "corpus-id": "d0"}], "line 1", "score 'None' is not an integer"),
        ([{"query-id": "q0", "score": 1}], "line 1", "'corpus-id' is missing"),
        (
            [{**ROWS[0], "query-id": 7}, {**ROWS[1], "query-id": "7"}],
            "line 2",
            "'query-id' is a string, but an integer at line 1; write all ids of the file alike",
        ),
    ],
)
def test_a_judgement_that_cannot_be_read_is_named_by_its_place(tmp_path, content, place, words):
    name = "dev.tsv" if isinstance(content, str) else "dev.jsonl"
    with pytest.raises(CareError) as error:
        judgements(tmp_path, content, name)
    assert f"{tmp_path / name}, {place}: " in str(error.value)
    assert words in str(error.value)


KEYS = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8)


@given(st.dictionaries(st.tuples(KEYS, KEYS), st.integers(-2, 4), min_size=1))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_trec_and_beir_say_the_same(tmp_path, grades):
    queries, documents = {q for q, _ in grades}, {d for _, d in grades}
    beir = "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t{g}\n" for (q, d), g in grades.items())
    trec = "".join(f"{q} 0 {d} {g}\n" for (q, d), g in grades.items())
    a, b = (
        read_judgements(write(tmp_path, name, text), queries, documents)
        for name, text in (("a.tsv", beir), ("b.txt", trec))
    )
    assert a == b == {q: {d: g for (p, d), g in grades.items() if p == q} for q in queries}


DOCUMENTS = [{"_id": "d0", "title": "甲", "text": "一"}, {"_id": "d1", "title": "", "text": "二"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("corpus.jsonl", DOCUMENTS),
        (
            "corpus.jsonl",
            [{"id": row["_id"], "title": row["title"], "text": row["text"]} for row in DOCUMENTS],
        ),
        ("corpus.parquet", DOCUMENTS),
        ("corpus.parquet", [DOCUMENTS[0], {**DOCUMENTS[1], "title": None}]),
        ("corpus.tsv", "d0\t甲\t一\nd1\t\t二\n"),
        ("corpus.tsv", "_id\ttext\ttitle\nd0\t一\t甲\nd1\t二\t\n"),
    ],
)
def test_documents_of_every_form_are_the_same(tmp_path, name, content):
    assert read_documents(write(tmp_path, name, content)) == {"d0": ("甲", "一"), "d1": ("", "二")}


def test_a_collection_of_ms_marco_is_ids_and_texts_as_they_stand(tmp_path):
    file = write(tmp_path, "collection.tsv", "0\t\"引号\" 和'撇号'\n1\t二\n")
    assert read_documents(file) == {"0": ("", "\"引号\" 和'撇号'"), "1": ("", "二")}
    assert read_queries(file) == {"0": "\"引号\" 和'撇号'", "1": "二"}
    with pytest.raises(CareError, match="line 2: 4 columns; expected id, text or id, title, text"):
        read_documents(write(tmp_path, "collection.tsv", "0\t一\n1\t二\t三\t四\n"))


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.parquet"])
def test_integer_ids_are_text(tmp_path, name):
    rows = [{"_id": i, "text": "一"} for i in (1, 2)]
    assert list(read_documents(write(tmp_path, name, rows))) == ["1", "2"]


@pytest.mark.parametrize("ids", [(1, "1"), ("1", 1), (1, "b")])
def test_integers_and_strings_as_ids_of_one_file_are_refused(tmp_path, ids):
    file = write(tmp_path, "corpus.jsonl", [{"_id": i, "text": "一"} for i in ids])
    with pytest.raises(
        CareError, match=r"corpus.jsonl, line 2: '_id' is an? \w+, but an? \w+ at line 1; write"
    ):
        read_documents(file)


def test_a_row_of_parquet_is_named(tmp_path):
    file = write(tmp_path, "corpus.parquet", [DOCUMENTS[0], {**DOCUMENTS[0], "text": None}])
    with pytest.raises(CareError, match=r"corpus.parquet, row 2: duplicate _id 'd0'"):
        read_documents(file)
    file = write(tmp_path, "corpus.parquet", [DOCUMENTS[0], {**DOCUMENTS[1], "text": None}])
    with pytest.raises(CareError, match=r"corpus.parquet, row 2: 'text' is a NoneType"):
        read_documents(file)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CareError, match="not a whole Parquet file"):
        read_documents(file)


def test_shards_are_read_one_after_another(tmp_path):
    rows = [{"query": f"问{i}", "positive": ["甲"], "negative": [f"乙{i}"]} for i in range(3)]
    files = [write(tmp_path, f"{i}.parquet", part) for i, part in enumerate((rows[:2], rows[2:]))]
    data = read_lists(files)
    assert data.queries == {"q1": "问0", "q2": "问1", "q3": "问2"}
    assert len(data.documents) == 4
    pairs = [{"sentence1": "一", "sentence2": "二", "score": i} for i in range(3)]
    files = [write(tmp_path, f"{i}.parquet", part) for i, part in enumerate((pairs[:2], pairs[2:]))]
    assert read_pairs(files).scores == [0.0, 1.0, 2.0]


def test_candidates_are_those_that_are_listed_or_else_the_judged_ones(tmp_path):
    corpus = write(tmp_path, "corpus.jsonl", [{"_id": f"d{i}", "text": str(i)} for i in range(4)])
    queries = write(tmp_path, "queries.jsonl", [{"_id": "q0", "text": "问"}, {"_id": "q1", "text": "不问"}])
    qrels = write(tmp_path, "dev.tsv", "q0 0 d0 1\nq0 0 d1 0\n")
    ranked = write(
        tmp_path,
        "top.parquet",
        [{"query-id": "q0", "corpus-ids": ["d3", "d0"]}, {"query-id": "q1", "corpus-ids": ["d1"]}],
    )
    assert read_ranking(corpus, queries, qrels, rerank=True).candidates == {"q0": ["d0", "d1"]}
    assert read_ranking(corpus, queries, qrels, ranked, rerank=True).candidates == {"q0": ["d3", "d0"]}
    assert read_ranking(corpus, queries, qrels).candidates is None
    for rows, words in (
        ([{"query-id": "q0", "corpus-ids": ["d9"]}], "row 1: document 'd9' is not in the corpus"),
        ([{"query-id": "q1", "corpus-ids": ["d1"]}], "has no candidates for query 'q0'"),
        ([{"query-id": "q0", "corpus-ids": "d0"}], "row 1: 'corpus-ids' must be a list of ids"),
    ):
        with pytest.raises(CareError, match=words):
            read_ranking(corpus, queries, qrels, write(tmp_path, "top.parquet", rows), rerank=True)
