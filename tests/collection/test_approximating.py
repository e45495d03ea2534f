"""Collections that are asked for a recall: what is chosen, kept, found and said."""

import json
import logging
import shutil
import threading

import numpy as np
import pytest

from care_accel import CareError, Collection
from care_accel.collection import approximating
from care_accel.index.approximate.building import choosing, run
from care_accel.index.approximate.recall import recalls, upper_bound

from .clustered_model import Clustered

DOCUMENTS = 1500
FAST = {"recall": 0.9, "k": 5}
MODEL = Clustered()
QUERIES = [f"query {i}" for i in range(120)]
VECTORS = MODEL.encoder("query").encode(QUERIES)


def rows(first, last):
    return [{"id": f"d{i}", "text": f"text {i}", "even": i % 2 == 0} for i in range(first, last)]


@pytest.fixture(scope="module", autouse=True)
def exact_is_slow():
    """As where vectors are many: whatever is not the exact scan is faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_floor", lambda tuner: None)
        patch.setattr(
            choosing, "alternating_times", lambda searches, calls: [1.0, *np.arange(1, len(searches)) * 1e-3]
        )
        real = approximating.StoredStructure.build

        def build(snapshot, *given, **options):
            family = ["IVF32,Flat" if snapshot.index.alive > 1300 else "IVF8,Flat"]
            return real(snapshot, *given, family=family, threads=1, **options)

        patch.setattr(approximating.StoredStructure, "build", build)
        yield


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """Return a folder with a collection and its choice, which no test changes."""
    folder = tmp_path_factory.mktemp("chosen") / "c"
    made = Collection.create(folder, MODEL)
    made.upsert(rows(0, DOCUMENTS))
    made.choose_index(**FAST, queries=[f"other {i}" for i in range(300)])
    assert not made.choice.is_exact, made.explain()
    return folder


@pytest.fixture
def folder(chosen, tmp_path):
    return shutil.copytree(chosen, tmp_path / "c")


def opened(folder, index="stored", **options):
    return Collection.open(folder, model=MODEL, index=index, **options)


def compared(collection, k=5, filter=None):
    """Check hits against the scores of all documents, and return the recall of each query."""
    searcher = opened(collection.uri, "exact", version=collection.version).searcher()
    index, ids = searcher.snapshot.index, searcher.snapshot.rows.all_ids().to_pylist()
    mask, left = (None, index.alive) if filter is None else searcher.mask(filter)
    scores, positions, _ = index.search_in_float64(VECTORS, left, subset=mask)
    observed = []
    for row, found in enumerate(collection.search(QUERIES, k, filter=filter)):
        known = {ids[p]: np.float32(score) for p, score in zip(positions[row], scores[row], strict=True)}
        assert [known[hit.id] for hit in found] == [hit.score for hit in found]
        assert [(-hit.score, hit.id) for hit in found] == sorted((-hit.score, hit.id) for hit in found)
        assert len({hit.id for hit in found}) == len(found) == min(k, left)
        own, best = np.array([[hit.score for hit in found]]), scores[row : row + 1, :k].astype(np.float32)
        observed.append(recalls(own.astype(np.float64), best.astype(np.float64))[0])
    return np.array(observed)


def test_hits_have_exact_scores_and_the_recall_that_was_asked_for(chosen):
    collection = opened(chosen)
    observed = compared(collection)
    assert observed.mean() < 1
    assert upper_bound(observed, 0.01) >= 0.9
    assert "IVF32,Flat is the fastest that proves recall 0.9" in collection.explain()
    assert collection.choice.queries == "300 given"


def test_a_choice_is_opened_again_and_not_made_again(chosen, monkeypatch):
    monkeypatch.setattr(approximating.StoredStructure, "build", None)
    for options in ({"index": "auto"}, {"index": "auto", "recall": 0.9}, {"index": "stored"}):
        collection = opened(chosen, **options)
        assert compared(collection).mean() < 1
        assert collection.choice.name == "IVF32,Flat"


def test_who_opens_a_collection_as_usual_searches_exactly(chosen):
    collection = Collection.open(chosen, model=MODEL)
    assert (compared(collection) == 1).all()
    assert collection.choice is None
    assert "opened with index='exact'" in collection.explain()


def test_auto_chooses_where_nothing_is_stored_or_another_recall(folder):
    shutil.rmtree(folder / "index")
    collection = opened(folder, "auto")
    collection.search("query 0")
    assert (collection.choice.asked, collection.choice.k) == (0.99, 10)
    assert "sampled" in collection.choice.queries
    assert opened(folder).explain() == collection.explain()
    other = opened(folder, "auto", recall=0.8)
    assert other.explain() != collection.explain()
    assert other.choice.asked == 0.8


def test_without_its_files_all_is_there_and_found(folder):
    collection = opened(folder)
    before = compared(collection)
    shutil.rmtree(folder / "index")
    np.testing.assert_array_equal(compared(collection), before)
    again = opened(folder)
    assert (compared(again) == 1).all()
    assert "nothing else was chosen" in again.explain()
    assert again.verify().ok


def test_what_is_written_later_is_found_exactly_and_what_is_deleted_is_not(folder):
    collection = opened(folder)
    collection.search("x")
    collection.upsert([*rows(DOCUMENTS, DOCUMENTS + 90), {"id": "d3", "text": "another text"}])
    collection.delete([f"d{i}" for i in range(50, 100)])
    assert "91 vectors written since are scanned exactly" in collection.explain()
    assert not collection.stale
    for again in (collection, opened(folder)):
        for i in range(DOCUMENTS, DOCUMENTS + 90):
            assert again.search(f"text {i}", 1)[0].id == f"d{i}"
        assert again.search("another text", 1)[0].id == "d3"
        assert upper_bound(compared(again), 0.01) >= 0.9
        assert not {hit.id for hit in again.search("text 60", 5)} & {f"d{i}" for i in range(50, 100)}
    # Compacting moves what is left.
    collection.compact(keep_days=0)
    for again in (collection, opened(folder)):
        assert upper_bound(compared(again), 0.01) >= 0.9
        assert again.choice.name == "IVF32,Flat"


def test_a_writer_that_searches_exactly_keeps_the_choice_of_others(folder):
    collection = opened(folder)
    collection.search("x")
    writer = Collection.open(folder, model=MODEL)
    writer.upsert([{"id": "new", "text": "new text"}])
    assert collection.refresh()
    assert collection.search("new text", 1)[0].id == "new"
    assert compared(collection).mean() < 1


@pytest.mark.parametrize(("expression", "left"), [("even", 750), ("id = 'd7'", 1), ("id > 'd1'", 1498)])
def test_a_filter_keeps_the_promise(chosen, expression, left):
    collection = opened(chosen)
    assert collection.count(expression) == left
    assert upper_bound(compared(collection, filter=expression), 0.01) >= 0.9


def test_more_hits_than_were_proven_are_exact(chosen):
    assert (compared(opened(chosen), k=6) == 1).all()


def test_an_earlier_version_is_searched_by_the_same_choice(folder):
    collection = opened(folder)
    before = collection.version
    collection.upsert([{"id": "new", "text": "new text"}])
    earlier = opened(folder, version=before)
    assert upper_bound(compared(earlier), 0.01) >= 0.9
    assert all(hit.id != "new" for hit in earlier.search("new text", 5))
    assert earlier.choice is not None
    with pytest.raises(CareError, match="without a version"):
        earlier.choose_index()


def test_nothing_is_found_where_no_document_is_left(folder):
    collection = opened(folder)
    collection.delete(filter="true")
    for empty in (collection, opened(folder), opened(folder, version=1)):
        assert empty.search("text 1", 5) == []
        assert empty.choice.name == "IVF32,Flat"


def test_when_much_has_changed_it_says_so_and_can_be_chosen_again(folder):
    collection = opened(folder)
    collection.search("x")
    collection.delete(filter="even")
    assert collection.stale
    assert collection.explain().endswith("rebuild_index()")
    assert (compared(collection) >= 0).all()
    before = collection.choice
    opened(folder, "exact").rebuild_index()
    assert collection.refresh()
    assert not collection.stale
    assert collection.choice.vectors == DOCUMENTS // 2
    assert [getattr(collection.choice, name) for name in ("asked", "k", "seed")] == [0.9, 5, before.seed]
    assert upper_bound(compared(collection), 0.01) >= 0.9


def test_what_another_process_chooses_or_forgets_is_seen(folder):
    watching, other = opened(folder), opened(folder)
    watching.search("x")
    assert not watching.refresh()
    other.choose_index(0.8, 5)
    assert watching.refresh()
    assert watching.choice.asked == 0.8
    other.forget_index()
    assert (compared(other) == 1).all()
    assert watching.refresh()
    assert (compared(watching) == 1).all()
    assert not watching.refresh()


def test_who_asked_for_a_recall_does_not_take_the_choice_of_another_one(folder):
    asked = opened(folder, "auto", recall=0.9)
    asked.search("x")
    other = opened(folder)
    other.choose_index(0.8, 5)
    other.upsert([{"id": "new", "text": "new text"}])
    assert asked.refresh()
    assert asked.search("new text", 1)[0].id == "new"
    assert asked.choice.asked == 0.9
    anything = opened(folder, "auto")
    anything.search("x")
    assert anything.choice.asked == 0.8


def test_a_choice_that_fails_changes_nothing(folder):
    exactly = opened(folder, "exact")
    shutil.copytree(folder, folder.parent / "other", ignore=shutil.ignore_patterns("approximate"))
    auto = opened(folder.parent / "other", "auto")
    for collection in (exactly, auto):
        with pytest.raises(CareError, match="cannot prove"):
            collection.choose_index(0.9, queries=["one"])
        collection.search("x")
    assert exactly.choice is None
    assert auto.choice.asked == 0.99


def test_an_exact_choice_is_kept_until_the_collection_has_grown(tmp_path, monkeypatch):
    collection = Collection.create(tmp_path / "c", MODEL)
    collection.upsert(rows(0, 400))
    auto = opened(tmp_path / "c", "auto")
    assert "too few for anything but an exact scan" in auto.explain()
    collection.upsert(rows(400, 800))
    auto.refresh()
    assert auto.stale
    # Opened again, it is chosen again.
    assert not opened(tmp_path / "c", "auto").stale
    assert not opened(tmp_path / "c", "auto").explain().startswith("400")


def test_the_recall_in_use_is_the_true_one_through_versions(folder):
    collection = opened(folder)
    watch = collection.watch(every=1)
    true = []
    for i in range(len(QUERIES)):
        vector = VECTORS[i : i + 1]
        found = collection.searcher().found_by.search_in_float64(vector, 5)[0]
        exact = collection.searcher().snapshot.index.search_in_float64(vector, 5)[0]
        true.append(recalls(found, exact)[0])
        watch.wait()
        if i % 40 == 39:
            collection.upsert([{"id": f"new{i}", "text": f"new {i}"}])
    assert collection.observed.queries == len(QUERIES)
    assert collection.observed.recall == pytest.approx(np.mean(true), abs=1e-12)
    assert collection.observed.recall < 1


def test_searches_go_on_while_another_choice_is_made(folder, monkeypatch):
    collection = opened(folder)
    collection.search("x")
    begun, goes_on = threading.Event(), threading.Event()
    build = approximating.StoredStructure.build

    def slow(*given, **options):
        begun.set()
        assert goes_on.wait(30)
        return build(*given, **options)

    monkeypatch.setattr(approximating.StoredStructure, "build", slow)
    before = collection.choice
    made = collection.rebuild_index(background=True)
    assert begun.wait(30)
    collection.upsert([{"id": "new", "text": "new text"}])
    assert collection.search("new text", 1)[0].id == "new"
    assert collection.choice is before
    goes_on.set()
    assert made.result(30) is collection.choice is not before
    assert collection.search("new text", 1)[0].id == "new"


@pytest.mark.parametrize("file", ["approximate.json", "structure.faiss", "row_ids.npy", "updated.npy"])
def test_damaged_files_are_told_and_not_used(folder, file, caplog):
    damaged = folder / "index" / "approximate" / file
    damaged.write_bytes(damaged.read_bytes()[:-3] + b"}}}")
    with caplog.at_level(logging.WARNING):
        assert (compared(opened(folder)) == 1).all()
    assert "is not used" in caplog.text


def test_the_choice_of_another_collection_is_not_used(folder, tmp_path, caplog):
    other = Collection.create(tmp_path / "other", MODEL)
    other.upsert(rows(0, 600))
    shutil.copytree(folder / "index" / "approximate", tmp_path / "other" / "index" / "approximate")
    collection = opened(tmp_path / "other")
    assert (compared(collection) == 1).all()
    assert "is of another collection" in caplog.text


def test_the_choice_by_another_release_of_faiss_is_not_used(folder, caplog):
    file = folder / "index" / "approximate" / "approximate.json"
    manifest = json.loads(file.read_text())
    manifest["choice"]["faiss"] = "1.2.9"
    file.write_text(json.dumps(manifest))
    assert (compared(opened(folder)) == 1).all()
    assert "was built by faiss 1.2.9, and here is" in caplog.text
    assert "chosen again by care-accel collection index" in caplog.text


def test_a_choice_that_cannot_be_saved_is_used_all_the_same(folder, monkeypatch, caplog):
    def refuse(self, *_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(approximating.StoredStructure, "save", refuse)
    collection = opened(folder)
    collection.choose_index(0.8, 5)
    assert "the disk is full, so the choice is not saved" in caplog.text
    assert (collection.choice.asked, collection.is_kept) == (0.8, False)


def test_the_recall_of_chunks_is_that_of_the_three_k_best(tmp_path):
    collection = Collection.create(tmp_path / "c", MODEL, chunk_tokens=4)
    collection.upsert([{"id": f"d{i}", "text": f"text {i}. more {i}. last {i}."} for i in range(700)])
    assert len(collection.searcher().snapshot.index) == 2100
    collection.choose_index(**FAST)
    assert (collection.choice.k, collection.choice.is_exact) == (15, False)
    exact = opened(tmp_path / "c", "exact")
    watch, checked, shares = collection.watch(every=1), 0, {}
    for group in (True, False):
        pairs = [
            (collection.search(query, 5, group=group), exact.search(query, 5, group=group))
            for query in QUERIES
        ]
        for found, best in pairs:
            assert len(found) == 5
            assert not group or len({hit.id for hit in found}) == 5
            assert all(a.score <= b.score for a, b in zip(found, best, strict=True))
        shares[group] = np.mean(
            [len({(h.id, h.span) for h in a} & {(h.id, h.span) for h in b}) / 5 for a, b in pairs]
        )
        watch.wait()
        assert collection.observed.queries > checked, "all were exact scans"
        checked = collection.observed.queries
    assert min(shares.values()) > 0.9
    # More documents than were proven come from an exact scan.
    assert collection.search("query 1", 6) == exact.search("query 1", 6)


def test_both_rankings_of_a_hybrid_collection_are_as_deep_as_they_are_fused(tmp_path):
    collection = Collection.create(tmp_path / "c", MODEL, lexical=True)
    collection.upsert(rows(0, 700))
    collection.choose_index(**FAST)
    assert (collection.choice.k, collection.choice.is_exact) == (100, False)
    exact = opened(tmp_path / "c", "exact")
    for query in ("text 17", "text 600"):
        found, best = collection.search(query, 5), exact.search(query, 5)
        assert found[0].id == best[0].id
        assert len(found) == 5
    collection.watch(every=1).wait()
    collection.search("text 17", 5)
    collection._watch.wait()
    assert collection.observed.queries == 1


def test_wrong_options_are_told(chosen):
    for options, said in (
        ({"index": "fast"}, "index is 'fast'; it must be one of 'exact', 'auto', 'stored'"),
        ({"index": "auto", "recall": 1.5}, "recall is 1.5"),
        ({"index": "auto", "recall": 0.9999}, "15,000 queries that would be sampled cannot prove"),
        ({"index": "exact", "recall": 0.9}, "a recall needs index='auto'"),
    ):
        with pytest.raises(CareError, match=said):
            opened(chosen, **options)
    collection = opened(chosen)
    with pytest.raises(CareError, match="cannot prove a recall"):
        collection.rebuild_index(queries=["one"], background=True).result(30)
    with pytest.raises(CareError, match="k is 0"):
        collection.choose_index(k=0)
    with pytest.raises(CareError, match="cannot prove a recall"):
        collection.choose_index(queries=["one"])
    assert collection.choice.asked == 0.9
