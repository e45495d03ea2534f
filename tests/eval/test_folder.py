import pytest

from care_accel.errors import CareError
from care_accel.eval.folder import DataSet, find_sets


def the_set(data_dir, name):
    return next(s for s in find_sets(data_dir) if s.name == name)


def test_sets_are_found_and_named_by_their_paths(data_dir):
    assert [s.name for s in find_sets(data_dir)] == ["retrieval/tiny", "reranking/tiny", "sts/tiny"]
    assert [s.splits for s in find_sets(data_dir)] == [["test"]] * 3


def test_retrieval_keeps_grades_and_only_the_judged_queries(data_dir):
    queries = data_dir / "retrieval/tiny/queries.jsonl"
    queries.write_text(queries.read_text() + '{"_id": "other", "text": "不问"}\n')
    data = the_set(data_dir, "retrieval/tiny").read("test")
    assert list(data.queries) == ["q0", "q1", "q2"]
    assert data.relevant["q1"] == {"d1": 2, "d3": 1}
    assert len(data.documents) == 5
    assert data.candidates is None


def test_a_reranking_text_is_one_document_however_often_it_is_a_candidate(data_dir):
    data = the_set(data_dir, "reranking/tiny").read("test")
    assert len(data.documents) == 4
    assert [sum(grades.values()) for grades in data.relevant.values()] == [1, 1]
    assert [len(c) for c in data.candidates.values()] == [3, 3]


def test_a_text_that_is_both_positive_and_negative_counts_as_positive(data_dir):
    (data_dir / "reranking/tiny/test.jsonl.gz").unlink()
    (data_dir / "reranking/tiny/test.jsonl").write_text(
        '{"query": "问", "positive": ["甲"], "negative": ["甲", "乙"]}\n'
    )
    data = the_set(data_dir, "reranking/tiny").read("test")
    assert sorted(data.relevant["q1"].values()) == [0, 1]


def test_the_digest_follows_the_content_of_any_file(data_dir):
    found = the_set(data_dir, "retrieval/tiny")
    before = found.digest("test")
    queries = data_dir / "retrieval/tiny/queries.jsonl"
    queries.write_text(queries.read_text().replace("感冒", "流感"))
    assert found.digest("test") != before


GOOD = '{"_id": "a", "text": "好"}\n'


@pytest.mark.parametrize(
    ("file", "content", "line", "words"),
    [
        ("retrieval/tiny/queries.jsonl", GOOD + "{broken\n", 2, "not JSON"),
        ("retrieval/tiny/queries.jsonl", GOOD + GOOD, 2, "duplicate _id 'a'"),
        ("retrieval/tiny/queries.jsonl", '{"_id": 7.0, "text": "好"}\n', 1, "'_id' is a float"),
        ("retrieval/tiny/queries.jsonl", '{"_id": true, "text": "好"}\n', 1, "'_id' is a bool"),
        ("retrieval/tiny/queries.jsonl", '{"text": "好"}\n', 1, "'_id' is missing"),
        ("retrieval/tiny/queries.jsonl", '{"_id": " ", "text": "好"}\n', 1, "'_id' is empty"),
        ("retrieval/tiny/queries.jsonl", '{"_id": "a"}\n', 1, "'text' is missing"),
        ("retrieval/tiny/queries.jsonl", "[1]\n", 1, "expected a JSON object"),
        ("retrieval/tiny/qrels/test.tsv", "q0\td0\t1\nq9\td0\t1\n", 2, "query 'q9' is not among the queries"),
        ("retrieval/tiny/qrels/test.tsv", "q0\td9\t1\n", 1, "document 'd9' is not in the corpus"),
        ("retrieval/tiny/qrels/test.tsv", "q0\td0\n", 1, "2 columns"),
        ("retrieval/tiny/qrels/test.tsv", "q0\td0\tyes\n", 1, "'yes' is not an integer"),
        (
            "retrieval/tiny/qrels/test.tsv",
            "q0\td0\t1\nq0\td0\t0\n",
            2,
            "a different score in an earlier line",
        ),
        ("sts/tiny/test.jsonl", '{"sentence1": "a", "sentence2": "b"}\n', 1, "'score'"),
        ("sts/tiny/test.jsonl", '{"sentence1": "a", "sentence2": "b", "score": NaN}\n', 1, "finite"),
        ("sts/tiny/test.jsonl", '{"sentence1": "a", "score": 1}\n', 1, "'sentence2' is missing"),
        (
            "reranking/tiny/test.jsonl",
            '{"query": "a", "positive": [], "negative": ["b"]}\n',
            1,
            "'positive' is empty",
        ),
        (
            "reranking/tiny/test.jsonl",
            '{"query": "a", "positive": "b", "negative": []}\n',
            1,
            "list of strings",
        ),
    ],
)
def test_a_broken_row_is_named_by_file_and_line(data_dir, file, content, line, words):
    packed = data_dir / f"{file}.gz"
    packed.unlink(missing_ok=True)
    (data_dir / file).write_text(content, encoding="utf-8")
    with pytest.raises(CareError) as error:
        the_set(data_dir, file.rsplit("/", 2 if "qrels" in file else 1)[0]).read("test")
    assert f"{data_dir / file}, line {line}: " in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["corpus.jsonl.gz", "queries.jsonl", "qrels/test.tsv"])
def test_a_missing_file_is_named(data_dir, missing):
    (data_dir / "retrieval/tiny" / missing).unlink()
    with pytest.raises(CareError, match=missing.removesuffix(".gz")):
        the_set(data_dir, "retrieval/tiny").read("test")


def test_a_missing_split_names_those_that_are_there(data_dir):
    with pytest.raises(CareError, match=r"qrels/dev.tsv: no such file.*available splits: test"):
        the_set(data_dir, "retrieval/tiny").files("dev")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_rows_is_refused(data_dir, content):
    (data_dir / "reranking/tiny/test.jsonl.gz").unlink()
    (data_dir / "reranking/tiny/test.jsonl").write_text(content)
    with pytest.raises(CareError, match="has no rows"):
        the_set(data_dir, "reranking/tiny").read("test")


def test_scores_that_are_all_equal_are_refused(data_dir):
    (data_dir / "sts/tiny/test.jsonl").write_text('{"sentence1": "a", "sentence2": "b", "score": 1}\n' * 3)
    with pytest.raises(CareError, match="two different scores"):
        the_set(data_dir, "sts/tiny").read("test")


def test_a_folder_that_is_missing_or_empty_is_refused(tmp_path):
    with pytest.raises(CareError, match="no such folder"):
        find_sets(tmp_path / "nowhere")
    with pytest.raises(CareError, match="no data set"):
        find_sets(tmp_path)


def test_a_set_is_read_gzip_or_plain(data_dir):
    assert isinstance(the_set(data_dir, "sts/tiny"), DataSet)
    assert the_set(data_dir, "sts/tiny").read("test").scores == [5.0, 1.5, 4.5, 1.0]


def test_judgements_that_are_all_0_measure_nothing(data_dir):
    file = data_dir / "retrieval/tiny/qrels/test.tsv"
    file.write_text("query-id\tcorpus-id\tscore\nq0\td0\t0\n")
    with pytest.raises(CareError, match="no score above 0"):
        DataSet("retrieval", file.parents[1]).read("test")
