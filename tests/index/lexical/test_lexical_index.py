"""The lexical index is BM25 over the documents that are there, whatever was added and removed before."""

import os
import shutil
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from care_accel import CareError
from care_accel.index import BM25Index, LexicalIndex
from care_accel.index.lexical import parts as module

DOCUMENTS = ["高血压要低盐饮食", "低血压要注意休息", "糖尿病控制主食", "", "高血压高血压"]
TEXT = st.text("高血压低盐 食aA１，😀𠀀Σﬁ\u0301", max_size=12)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(TEXT, max_size=6)),
        st.tuples(st.just("remove"), st.lists(st.integers(0, 99), max_size=4)),
        st.tuples(st.sampled_from(["take", "compact", "save"]), st.integers(0, 99)),
    ),
    max_size=8,
)


def assert_same_hits(index, documents, queries, k):
    """Compare with indexes built of what is left of ``documents``, of which None is a removed one."""
    alive = [place for place, text in enumerate(documents) if text is not None]
    left = [documents[place] for place in alive]
    assert (len(index), index.alive) == (len(documents), len(left))
    assert np.flatnonzero(~index.removed).tolist() == alive
    scores, positions = index.search(queries, k)
    assert (scores.dtype, positions.dtype) == (np.float32, np.int64)
    assert scores.shape == positions.shape == (len(queries), k)
    # To the last bit those of a new index.
    new_scores, new_positions = LexicalIndex(left).search(queries, k)
    np.testing.assert_array_equal(scores, new_scores)
    named = np.append(alive, -1).astype(np.int64)
    np.testing.assert_array_equal(positions, named[new_positions])
    # Nearly those of bm25s: near ties may change places.
    reference = BM25Index(left)
    np.testing.assert_allclose(scores, reference.search(queries, k)[0], rtol=1e-5)
    for query, row, found in zip(queries, scores, new_positions, strict=True):
        expected = reference.scores(query)
        np.testing.assert_allclose(row[found >= 0], expected[found[found >= 0]], rtol=1e-5)
        assert (found >= 0).sum() == min(k, np.count_nonzero(expected))


@settings(max_examples=150, deadline=None)
@given(changes=CHANGES, queries=st.lists(TEXT, min_size=1, max_size=3), k=st.integers(1, 12))
def test_any_changes_leave_the_scores_of_what_is_there(changes, queries, k, tmp_path_factory):
    index, documents = LexicalIndex(), []
    folder = tmp_path_factory.mktemp("saved")
    for number, (kind, values) in enumerate(changes):
        before, length = index, len(index)
        if kind == "add":
            index = index.with_added(values)
            documents += values
        elif kind == "remove":
            gone = [value % len(documents) for value in values if documents]
            index = index.with_removed(gone)
            documents = [None if place in gone else text for place, text in enumerate(documents)]
        elif kind == "save":
            index.save(folder / str(number))
            index = LexicalIndex.load(folder / str(number))
        else:
            every = range(values % 2, len(documents), 2)
            chosen = list(every) if kind == "take" else np.flatnonzero(~index.removed).tolist()
            index = index.taken(chosen)
            documents = [documents[place] for place in chosen]
        assert len(before) == length
    assert_same_hits(index, documents, queries, k)


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(TEXT, min_size=1, max_size=300),
    query=TEXT,
    k=st.integers(1, 9),
    subset=st.lists(st.integers(0, 299), max_size=99),
)
def test_the_best_are_those_of_sorting_all(texts, query, k, subset):
    index = LexicalIndex(texts).with_removed([len(texts) // 2])
    ids = [value % len(texts) for value in subset]
    mask = np.zeros(len(texts), bool)
    mask[ids] = True
    for options, some in (({}, np.ones_like(mask)), ({"subset": ids}, mask), ({"subset": mask}, mask)):
        expected = np.where(some, index.scores(query), 0)
        order = [place for place in np.argsort(-expected, kind="stable") if expected[place] > 0][:k]
        scores, positions = index.search([query], k, **options)
        assert positions[0, : len(order)].tolist() == order
        assert scores[0, : len(order)].tolist() == expected[order].tolist()
        assert (positions[0, len(order) :] == -1).all()
        assert (scores[0, len(order) :] == -np.inf).all()


def test_many_documents_have_the_scores_of_bm25s(monkeypatch):
    rng = np.random.default_rng(0)
    texts = [
        "".join(rng.choice(list("高血压低盐饮食休息主控糖尿病"), rng.integers(0, 30))) for _ in range(1_500)
    ]
    queries = ["高血压", "糖尿病控制主食", "盐盐盐"]
    # Small bounds, so that there are several batches, parts and pieces.
    monkeypatch.setattr(module, "_BATCH", 4_000)
    monkeypatch.setattr(module, "_LARGEST_JOINED", 9_000)
    monkeypatch.setattr(module, "_TOGETHER", 100)
    index = LexicalIndex(texts)
    assert 1 < len(index._parts) < 9
    gone = rng.choice(1_500, 400, replace=False)
    index = index.with_removed(gone).with_added(texts[:7])
    documents = [None if place in set(gone.tolist()) else text for place, text in enumerate(texts)]
    assert_same_hits(index, documents + texts[:7], queries, 20)


def test_small_changes_make_few_parts():
    index = LexicalIndex(DOCUMENTS * 40)
    for number in range(100):
        index = index.with_added([f"第{number}个"])
    assert len(index) == 300
    assert len(index._parts) < 10
    assert index.search(["第99个"], 1)[1].tolist() == [[299]]


def test_equal_scores_come_by_smaller_position_also_from_several_parts():
    index = LexicalIndex(["头痛", "发热" * 30, "头痛"]).with_added(["头痛"]).with_removed([0])
    assert len(index._parts) == 2
    assert index.search(["头痛"], 4)[1].tolist() == [[2, 3, -1, -1]]


def test_other_constants_are_kept_by_every_change(tmp_path):
    index = LexicalIndex(DOCUMENTS, k1=0.9, b=0.4).with_added(["血压"]).with_removed([1])
    index.save(tmp_path / "lexical")
    left = [text for text in [*DOCUMENTS, "血压"] if text != DOCUMENTS[1]]
    for other in (index, LexicalIndex.load(tmp_path / "lexical"), index.taken([0, 2, 3, 4, 5])):
        assert (other.k1, other.b) == (0.9, 0.4)
        found = other.search(["高血压"], 3)[0]
        np.testing.assert_allclose(found, BM25Index(left, k1=0.9, b=0.4).search(["高血压"], 3)[0], rtol=1e-5)


@pytest.mark.parametrize("documents", [[], ["", " "]])
def test_an_index_without_terms_finds_nothing(documents, tmp_path):
    index = LexicalIndex(documents)
    index.save(tmp_path / "lexical")
    for other in (index, LexicalIndex.load(tmp_path / "lexical"), index.with_removed([]), index.taken([])):
        assert other.search(["头痛", ""], k=2)[1].tolist() == [[-1, -1]] * 2
    assert index.with_added(["头痛"]).search(["头痛"], 1)[1].tolist() == [[len(documents)]]


def test_a_saved_index_shares_the_files_of_what_did_not_change(tmp_path):
    first = LexicalIndex(DOCUMENTS * 30)
    first.save(tmp_path / "new", moved_to=tmp_path / "1")
    os.rename(tmp_path / "new", tmp_path / "1")
    loaded = LexicalIndex.load(tmp_path / "1")
    for number, index in enumerate([first, loaded]):
        folder = tmp_path / f"changed-{number}"
        changed = index.with_added(["发热"]).with_removed([0])
        changed.save(folder)
        for file in (tmp_path / "1" / "parts" / "0").iterdir():
            assert file.samefile(folder / "parts" / "0" / file.name)
        assert LexicalIndex.load(folder).search(["发热", "高血压"], 2)[1].tolist() == [[150, -1], [4, 9]]
    # The first folder may go: what was loaded from it stays, and is linked from where it is now.
    shutil.rmtree(tmp_path / "1")
    assert loaded.search(["高血压"], 2)[1].tolist() == [[4, 9]]
    loaded.save(tmp_path / "2")
    assert LexicalIndex.load(tmp_path / "2").search(["高血压"], 2)[1].tolist() == [[4, 9]]


def test_saved_files_are_private(tmp_path):
    LexicalIndex(DOCUMENTS).with_removed([1]).save(tmp_path / "lexical")
    for entry in (tmp_path / "lexical", *(tmp_path / "lexical").rglob("*")):
        mode = stat.S_IMODE(entry.stat().st_mode)
        assert mode == (0o700 if entry.is_dir() else 0o600)


def test_an_index_is_saved_over_itself_but_over_nothing_else(tmp_path):
    index = LexicalIndex(DOCUMENTS)
    index.save(tmp_path / "lexical")
    loaded = LexicalIndex.load(tmp_path / "lexical").with_added(["发热"])
    loaded.save(tmp_path / "lexical")
    assert len(LexicalIndex.load(tmp_path / "lexical")) == 6
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("", encoding="utf-8")
    with pytest.raises(CareError, match=r"has no lexical\.json; choose another folder"):
        index.save(tmp_path / "other")


@pytest.mark.parametrize("name", ["grams", "offsets", "documents", "frequencies", "lengths"])
def test_a_damaged_file_is_refused(name, tmp_path):
    LexicalIndex(DOCUMENTS).save(tmp_path / "lexical")
    file = tmp_path / "lexical" / "parts" / "0" / f"{name}.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CareError, match=f"{name}.npy: its checksum does not match"):
        LexicalIndex.load(tmp_path / "lexical")
    file.write_bytes(whole[:-1])
    with pytest.raises(CareError, match=f"{name}.npy: has .* bytes"):
        LexicalIndex.load(tmp_path / "lexical", verify=False)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"format": 1', '"format": 9', "format 9 is unknown"),
        ('"analyser": "char', '"analyser": "bar', "'analyser' is 'bar"),
        ('"count": 5,\n  "rem', '"count": 6,\n  "rem', "'count' is 6, but its parts"),
        ('"removed": 1', '"removed": 2', "'removed' is 2, but removed.npy"),
        ('"k1": 1.2', '"k1": "x"', "is damaged"),
        ('"postings"', '"post"', "is damaged"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(old, new, message, tmp_path):
    LexicalIndex(DOCUMENTS).with_removed([1]).save(tmp_path / "lexical")
    file = tmp_path / "lexical" / "lexical.json"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(CareError, match=message):
        LexicalIndex.load(tmp_path / "lexical")


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(CareError, match="no such file; a saved lexical index has one"):
        LexicalIndex.load(tmp_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda index: index.search(["高血压"], k=0), "k is 0"),
        (lambda index: index.search(["高血压"], subset=[5]), "subset contains id 5"),
        (lambda index: index.with_removed([1, 5]), "no document 5; the index has 5"),
        (lambda index: index.with_removed([-1]), "no document -1"),
        (lambda index: index.with_removed([0.5]), "positions are float64"),
        (lambda index: index.taken([2, 1]), "positions must ascend"),
        (lambda index: index.taken([1, 1]), "positions must ascend"),
    ],
)
def test_a_wrong_argument_is_refused(call, message):
    with pytest.raises(CareError, match=message):
        call(LexicalIndex(DOCUMENTS))
