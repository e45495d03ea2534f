import pytest

from care_accel.errors import CareError
from care_accel.eval.statistics.movement import Moved, moved_documents
from care_accel.eval.trec import write_qrels, write_run


def moved(folder, before, after, grades, queries=("q",)):
    """Write rankings, best first, and compare them."""
    files = [folder / name for name in ("a.run", "b.run", "qrels")]
    for file, ranking in zip(files, (before, after), strict=False):
        scores = {query: {d: -float(i) for i, d in enumerate(row)} for query, row in ranking.items()}
        write_run(file, scores, "tag")
    write_qrels(files[2], grades)
    return moved_documents(*files, queries)


def test_a_relevant_document_that_fell_is_shown_with_what_rose_above_it(tmp_path):
    before, after = list("abcdefg"), list("fcgeadb")
    assert moved(tmp_path, {"q": before}, {"q": after}, {"q": {"a": 2, "b": 0, "c": 1, "x": 1}}) == [
        Moved("q", "a", 2, 1, 5, ["f", "c", "g"])
    ]


def test_a_document_that_is_gone_has_no_rank(tmp_path):
    found = moved(tmp_path, {"q": list("abc")}, {"q": list("bd")}, {"q": {"a": 1, "c": 1}})
    assert found == [Moved("q", "a", 1, 1, None, ["b", "d"]), Moved("q", "c", 1, 3, None, ["d"])]
    assert moved(tmp_path, {"q": ["a"]}, {}, {"q": {"a": 1}}) == [Moved("q", "a", 1, 1, None, [])]


def test_what_rose_or_stayed_or_was_never_there_is_not_shown(tmp_path):
    assert moved(tmp_path, {"q": list("abc")}, {"q": list("bac")}, {"q": {"b": 1, "c": 1, "x": 1}}) == []
    assert moved(tmp_path, {"q": list("abc")}, {"q": list("bca")}, {}) == []


def test_queries_keep_their_order_and_show_few_documents_each(tmp_path):
    before, after = list("abcdef"), list("fedcba")
    grades = dict.fromkeys("abcdef", 1)
    both = {"q": before, "p": before}, {"q": after, "p": after}, {"q": grades, "p": grades}
    found = moved(tmp_path, *both, queries=("p", "q"))
    assert [(one.query, one.document) for one in found] == [(q, d) for q in "pq" for d in "abc"]
    assert found[1].above == ["f", "e", "d"]


def test_a_broken_run_is_named(tmp_path):
    moved(tmp_path, {"q": ["a"]}, {"q": ["a"]}, {"q": {"a": 1}})
    (tmp_path / "b.run").write_text("q Q0 a\n")
    with pytest.raises(CareError, match=r"b.run, line 1: 3 columns"):
        moved_documents(*(tmp_path / name for name in ("a.run", "b.run", "qrels")), ["q"])
