"""The index of a served model: opened, watched, and opened again when it is replaced."""

import shutil
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from care_accel import ApproximateIndex, CareError, Collection, DualEncoder, ExactIndex, Retriever
from care_accel import retriever as retriever_module
from care_accel.errors import VersionRemoved
from care_accel.index.approximate.building import choosing, run
from care_accel.index.approximate.recall import recalls
from care_accel.serving.backend import live_index
from care_accel.serving.backend.tensors import Counter

from ..gateway.documents.quick import Quick


def backend_of(folder, said, **parameters):
    """Return what stands for the server, with a log in place of its own."""
    counters, gauges = {}, {}
    return SimpleNamespace(
        parameters={"care": {"name": "m", "width": 8, "revision": "r"}, **parameters},
        path=Path,
        device="cpu",
        log=said.append,
        counter=lambda name, help_text: counters.setdefault(name, Counter(name, help_text, {})),
        gauge=lambda name, help_text, read: gauges.update({name: read}),
        counters=counters,
        gauges=gauges,
    )


@pytest.fixture
def index():
    index = ExactIndex(8)
    index.add(np.random.default_rng(0).standard_normal((50, 8), np.float32))
    return index


@pytest.fixture
def watching(tmp_path, monkeypatch):
    """Return a function that opens a saved index and watches it."""
    monkeypatch.setattr(live_index, "_POLL_S", 0.01)
    started = []

    def start():
        said = []
        live = live_index.LiveIndex(backend_of(tmp_path, said, index=str(tmp_path / "index")))
        started.append(live)
        return live, said

    yield start
    for live in started:
        live.end()


def saved(folder, index, name):
    made_by = live_index.RecordedModel("m", 8, "r")
    Retriever(made_by, index, [f"{name} {i}" for i in range(len(index))]).save(folder)


def first_document(live):
    return live.current.documents(np.array([[0]]))[0, 0].decode()


@pytest.mark.parametrize("when", ["while the model loads", "while a new one is opened"])
def test_an_index_that_is_replaced_while_it_is_read_is_read_again(
    monkeypatch, tmp_path, index, watching, when
):
    """Its documents would be those of one index and its vectors those of another."""
    folder, interrupted_once = tmp_path / "index", []
    read_documents = retriever_module.read_json_values
    first = "old" if when == "while the model loads" else "middle"

    def interrupted(file):
        values = list(read_documents(file))
        if values[0][1] == f"{first} 0" and not interrupted_once:
            interrupted_once.append("replaced")
            saved(folder, index, "new")
        return values

    monkeypatch.setattr(retriever_module, "read_json_values", interrupted)
    saved(folder, index, "old")
    live, said = watching()
    seen = {first_document(live)}
    if first == "middle":
        saved(folder, index, "middle")
    end = time.monotonic() + 30
    while '"new 0"' not in seen and time.monotonic() < end:
        seen.add(first_document(live))
    assert seen == ({'"new 0"'} if first == "old" else {'"old 0"', '"new 0"'})
    assert not any("rejected" in line for line in said)


def test_a_broken_index_is_rejected_once_and_the_old_one_stays(tmp_path, index, watching):
    saved(tmp_path / "index", index, "old")
    live, said = watching()
    before = live.current
    (tmp_path / "index" / "retriever.json").write_text("{")
    end = time.monotonic() + 30
    while not said and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(said) == 1
    assert "the new index is rejected, the old one stays live" in said[0]
    assert live.current is before


def test_another_collection_in_the_place_of_the_served_one_goes_live(tmp_path, monkeypatch):
    monkeypatch.setattr(live_index, "_POLL_S", 0.01)
    model, folder, said = DualEncoder.from_pretrained("care-mini"), tmp_path / "c", []
    known = {"name": model.name, "width": model.width, "revision": model.revision("document")}

    def written(*texts):
        made = Collection.create(folder, model)
        for text in texts:  # a version each
            made.upsert([{"id": "same", "text": text}])

    def best():
        now = live.current
        _, ids, _ = now.search(model.encode_query(["新"]), [1], None)
        return now.documents(ids)[0, 0].decode()

    written("旧")
    live = live_index.LiveIndex(backend_of(tmp_path, said, index=str(folder), care=known))
    try:
        assert '"旧"' in best()
        shutil.rmtree(folder)
        written("新", "更新")
        end = time.monotonic() + 30
        while '"更新"' not in best() and time.monotonic() < end:
            time.sleep(0.01)
        assert '"更新"' in best()
    finally:
        live.end()


def test_a_collection_that_cannot_be_read_is_told_once(tmp_path, monkeypatch):
    monkeypatch.setattr(live_index, "_POLL_S", 0.01)
    model, said = DualEncoder.from_pretrained("care-mini"), []
    known = {"name": model.name, "width": model.width, "revision": model.revision("document")}
    Collection.create(tmp_path / "c", model).upsert([{"id": "a", "text": "旧"}])
    live = live_index.LiveIndex(backend_of(tmp_path, said, index=str(tmp_path / "c"), care=known))
    try:
        # At once: while files vanish one by one, different things go wrong.
        (tmp_path / "c").rename(tmp_path / "gone")
        end = time.monotonic() + 30
        while not said and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.2)
        assert len(said) == 1
        assert '"旧"' in first_document(live)
    finally:
        live.end()


def test_an_index_of_vectors_alone_has_no_documents(tmp_path, index, watching):
    index.save(tmp_path / "index")
    live, _ = watching()
    assert len(live.current) == 50
    assert first_document(live) == "null"


@pytest.fixture(scope="module")
def approximate():
    """Return an approximate index of a low recall."""
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_floor", lambda tuner: None)
        patch.setattr(
            choosing, "alternating_times", lambda searches, calls: [1.0, *np.arange(1, len(searches)) * 1e-3]
        )
        vectors, queries = (rng.standard_normal((n, 8), np.float32) for n in (2000, 900))
        index = ApproximateIndex.build(vectors, 0.8, 5, queries=queries, family=["IVF32,Flat"], threads=1)
    assert not index.choice.is_exact
    return index


def searched(live, query, k=5):
    """Search as a model does."""
    return live.current.search(query[np.newaxis], [k], None)[0].astype(np.float64)


def waited_for(condition):
    end = time.monotonic() + 30
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_the_recall_of_a_served_approximate_index_is_the_true_one(tmp_path, approximate, monkeypatch):
    monkeypatch.setattr(live_index, "_POLL_S", 0.01)
    saved(tmp_path / "index", approximate, "approximate")
    backend = backend_of(tmp_path, [], index=str(tmp_path / "index"), recall_every=2)
    live = live_index.LiveIndex(backend)
    try:
        assert np.isnan(backend.gauges["recall"]())
        true = []
        for number, query in enumerate(np.random.default_rng(5).standard_normal((61, 8), np.float32)):
            found = searched(live, query)
            exact = approximate.exact_hits(query, 5)[0][np.newaxis].astype(np.float64)
            if number % 2:
                true.append(recalls(found, exact)[0])
                waited_for(lambda: backend.counters["recall_queries"].total == len(true))
        assert backend.gauges["recall"]() == pytest.approx(np.mean(true), abs=1e-6)
        assert 0.7 < np.mean(true) < 1
        assert np.mean(true) < backend.gauges["recall_high"]() < 1
        assert backend.gauges["recall_promised"]() == 0.8
        # An exact index in its place has a recall of 1, and nothing is checked.
        index = ExactIndex(8)
        index.add(approximate.vectors)
        saved(tmp_path / "index", index, "exact")
        waited_for(lambda: backend.gauges["recall"]() == 1)
        assert backend.gauges["recall_high"]() == backend.gauges["recall_promised"]() == 1
        searched(live, query)
        assert backend.counters["recall_queries"].total == len(true)
    finally:
        live.end()


def test_a_served_collection_is_searched_as_it_was_chosen_and_follows(tmp_path, monkeypatch):
    monkeypatch.setattr(live_index, "_POLL_S", 0.01)
    monkeypatch.setattr(run, "_floor", lambda tuner: None)
    monkeypatch.setattr(
        choosing, "alternating_times", lambda searches, calls: [1.0, *np.arange(1, len(searches)) * 1e-3]
    )
    monkeypatch.setattr(
        ApproximateIndex, "build", partial(ApproximateIndex.build, family=["IVF32,Flat"], threads=1)
    )
    model, folder, said = Quick(), tmp_path / "c", []
    made = Collection.create(folder, model)
    made.upsert([{"id": str(i), "text": f"text {i}"} for i in range(1300)])
    known = {"name": "quick", "width": 8, "revision": "sha256:1"}
    backend = backend_of(tmp_path, said, index=str(folder), care=known, recall_every=1)
    live = live_index.LiveIndex(backend)
    query = model.encode_query(["query"])[0]
    try:
        assert backend.gauges["recall"]() == 1
        made.choose_index(0.8, 5)
        waited_for(lambda: live.current.is_approximate)
        assert backend.gauges["recall_promised"]() == 0.8
        assert np.isnan(backend.gauges["recall_high"]())
        searched(live, query)
        waited_for(lambda: backend.gauges["recall"]() <= 1)
        # What is written is found at once, and much of it is told once.
        for first in (1300, 1500):
            made.upsert([{"id": str(i), "text": f"text {i}"} for i in range(first, first + 200)])
            waited_for(lambda first=first: len(live.current) == first + 200)
            vector = model.encode_query([f"text {first + 7}"])
            assert live.current.document_ids(live.current.search(vector, [1], None)[1]) == [
                [str(first + 7).encode()]
            ]
        made.delete("0")
        waited_for(lambda: len(live.current) == 1699)
        assert [line.endswith("care-accel collection index --again") for line in said] == [True]
        made.forget_index()
        waited_for(lambda: not live.current.is_approximate)
        assert backend.gauges["recall"]() == 1
    finally:
        live.end()


def test_a_recall_that_falls_below_what_was_promised_is_logged_once(tmp_path, approximate, monkeypatch):
    saved(tmp_path / "index", approximate, "approximate")
    said = []
    backend = backend_of(tmp_path, said, index=str(tmp_path / "index"), recall_every=1)
    live = live_index.LiveIndex(backend)
    try:
        # As if queries had come for which the structure is useless: it looks where they are not.
        served = live.current._retriever.index
        one = served.finder._one
        find = one.find
        monkeypatch.setattr(type(one), "find", lambda self, part, q, *rest: find(part, -q, *rest))
        for number, query in enumerate(np.random.default_rng(6).standard_normal((60, 8), np.float32), 1):
            searched(live, query)
            waited_for(lambda number=number: backend.counters["recall_queries"].total == number)
        (line,) = said
        assert "of the last" in line
        assert "0.8 was asked for" in line
    finally:
        live.end()


def test_a_build_without_cuda_scans_on_the_processor_and_says_so(monkeypatch):
    def refuse(device):
        raise CareError("this build has no CUDA parts")

    monkeypatch.setattr(live_index, "require_cuda", refuse)
    said = []
    assert live_index.scan_device(SimpleNamespace(device="cuda:1", log=said.append)) == "cpu"
    assert said == ["the scan runs on the CPU: this build has no CUDA parts"]
    assert live_index.scan_device(SimpleNamespace(device="cpu", log=said.append)) == "cpu"


@pytest.fixture
def followed(tmp_path, monkeypatch):
    """Return the index of a served collection that looks for versions only when it is told to."""
    monkeypatch.setattr(live_index, "_POLL_S", 60)
    Collection.create(tmp_path / "c", Quick()).upsert([{"id": "a", "text": "1"}])
    care = {"name": "m", "width": 8, "revision": "sha256:1"}
    backend = backend_of(tmp_path, [], care=care, index=str(tmp_path / "c"))
    backend.overload = lambda why, requests: [f"UNAVAILABLE: {why}"] * requests
    live = live_index.LiveIndex(backend)
    yield live
    live.end()


def test_a_batch_is_begun_again_however_often_its_version_is_removed(followed, monkeypatch):
    monkeypatch.setattr(live_index, "_PAUSE_S", 0.001)
    refreshed = []
    monkeypatch.setattr(followed, "_refresh", lambda: refreshed.append(1))

    def batch(index):
        if len(refreshed) < 8:
            raise VersionRemoved("it is gone")
        return ["hits"]

    assert followed.answer(1, batch) == ["hits"]
    assert len(refreshed) == 8


def test_a_newest_version_that_is_removed_as_well_is_no_failure(followed, monkeypatch):
    def gone():
        tried.append(1)
        raise VersionRemoved("the newest is gone too")

    tried = []
    monkeypatch.setattr(followed, "_refresh", gone)

    def batch(index):
        if len(tried) < 2:
            raise VersionRemoved("it is gone")
        return ["hits"]

    assert followed.answer(1, batch) == ["hits"]


def test_after_some_seconds_each_request_is_told_to_try_again(followed, monkeypatch):
    monkeypatch.setattr(live_index, "_TRY_S", 0.05)

    def batch(index):
        raise VersionRemoved("it is gone")

    begun = time.monotonic()
    found = followed.answer(3, batch)
    assert 0.01 < time.monotonic() - begun < 5
    assert len(found) == 3
    assert found[0].startswith("UNAVAILABLE: the collection is compacted so often")
    assert found[0].endswith("try again")
