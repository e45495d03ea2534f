"""An index of several parts finds what an index of one finds, whatever was added, removed, saved and loaded in between."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from plain_search import assert_found, index_of, vectors_of

from care_accel import CareError, ExactIndex
from care_accel.index import parts, saved_file

WIDTH = 6


class Changes(RuleBasedStateMachine):
    """Any changes, against the vectors and a mask in plain NumPy."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.vectors = np.zeros((0, WIDTH), np.float32)
        self.mask = np.zeros(0, bool)
        self.saved = None

    @initialize(int4=st.booleans())
    def start(self, int4):
        self.index = index_of(self.vectors, int4)

    def grow(self, rows):
        self.vectors = np.concatenate([self.vectors, rows])
        self.mask = np.concatenate([self.mask, np.ones(len(rows), bool)])

    @rule(rows=st.sampled_from([0, 1, 2, 15, 16, 40, 300]), seed=st.integers(0, 9))
    def add(self, rows, seed):
        self.index.add(vectors_of(rows, WIDTH, seed))
        self.grow(vectors_of(rows, WIDTH, seed))

    @precondition(lambda self: len(self.mask))
    @rule(data=st.data())
    def remove(self, data):
        ids = data.draw(st.lists(st.integers(0, len(self.mask) - 1), max_size=20))
        before = self.mask.sum()
        self.mask[ids] = False
        assert self.index.remove(ids) == before - self.mask.sum()

    @precondition(lambda self: len(self.mask))
    @rule(data=st.data(), rows=st.integers(0, 5), seed=st.integers(0, 9))
    def replace(self, data, rows, seed):
        ids = data.draw(st.lists(st.integers(0, len(self.mask) - 1), max_size=5))
        self.mask[ids] = False
        new = self.index.replace(ids, vectors_of(rows, WIDTH, seed))
        assert new.tolist() == list(range(len(self.mask), len(self.mask) + rows))
        self.grow(vectors_of(rows, WIDTH, seed))

    @rule()
    def compact(self):
        old = self.index.compact()
        np.testing.assert_array_equal(old, np.flatnonzero(self.mask))
        self.vectors, self.mask = self.vectors[old], self.mask[old]
        assert len(self.index._parts) == 1

    @rule()
    def save(self):
        self.index.save(self.folder / "index")
        self.saved = self.vectors, self.mask.copy()

    @precondition(lambda self: self.saved)
    @rule(resident=st.sampled_from([None, "codes", "all"]))
    def load(self, resident):
        self.index = ExactIndex.load(self.folder / "index", resident=resident)
        self.vectors, self.mask = self.saved[0], self.saved[1].copy()

    @rule(
        seed=st.integers(0, 99),
        count=st.sampled_from([1, 2, 9]),
        k=st.sampled_from([1, 5, 70]),
        threads=st.sampled_from([1, 2]),
    )
    def search(self, seed, count, k, threads):
        assert_found(self.index, self.vectors, self.mask, vectors_of(count, WIDTH, seed), k, threads=threads)
        chosen = np.random.default_rng(seed).random(len(self.mask)) < 0.3
        queries = vectors_of(count, WIDTH, seed)
        assert_found(self.index, self.vectors, self.mask & chosen, queries, k, subset=chosen)
        assert_found(self.index, self.vectors, self.mask, queries[:, :4], k, width=4)

    @invariant()
    def keeps_its_books(self):
        if not hasattr(self, "index"):
            return
        assert (len(self.index), self.index.alive) == (len(self.mask), self.mask.sum())
        np.testing.assert_array_equal(self.index.removed, ~self.mask)
        np.testing.assert_array_equal(self.index.vectors, self.vectors)
        counts = [part.count for part in self.index._parts]
        assert all(a > 2 * b for a, b in pairwise(counts))

    def teardown(self):
        shutil.rmtree(self.folder)


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


@pytest.fixture
def saved(tmp_path):
    """Return the folder of an index of 1,000 vectors."""
    index_of(vectors_of(1_000)).save(tmp_path / "index")
    return tmp_path / "index"


def inodes(folder):
    return {str(file.relative_to(folder)): file.stat().st_ino for file in folder.rglob("*") if file.is_file()}


def counts_of(index):
    return [part.count for part in index._parts]


def test_hits_of_parts_are_those_of_one_index_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1_500, 40)).astype(np.float32)
    vectors[1_400:] = vectors[:100]  # the same scores in several parts
    index = index_of(vectors[:1_000])
    for start, end in ((1_000, 1_300), (1_300, 1_430), (1_430, 1_490), (1_490, 1_500)):
        index.save(tmp_path / "index")
        index.add(vectors[start:end])
    assert counts_of(index) == [1_000, 300, 130, 60, 10]
    whole = index_of(vectors)
    queries = np.concatenate([rng.standard_normal((8, 40)).astype(np.float32), vectors[:3]])
    for k in (1, 10, 1_501):
        for asked in (queries[:1], queries):
            for ours, theirs in zip(
                index.search_in_float64(asked, k)[:2], whole.search_in_float64(asked, k)[:2], strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)
    rescored = index.search(queries, k=10, return_stats=True)[2].rescored
    assert rescored.shape == (11,)
    assert (rescored >= 10 * len(index._parts)).all()


def test_scores_that_float32_cannot_tell_apart_are_merged_in_their_order(tmp_path):
    # 1 + 2^-30 and 1 are one float32; the better one is in the second part.
    index = index_of(np.array([[1.0, 0.0]] * 5, dtype=np.float32))
    index.save(tmp_path / "index")
    index.add(np.array([[1.0, 2.0**-15]], dtype=np.float32))
    assert counts_of(index) == [5, 1]
    assert index.search(np.array([1.0, 2.0**-15], dtype=np.float32), k=3)[1].tolist() == [5, 0, 1]


def test_a_small_addition_to_a_saved_index_copies_nothing(saved):
    index = ExactIndex.load(saved)
    mapped = index._parts[0].stored
    for seed in range(30):
        index.add(vectors_of(10, seed=seed))
    assert counts_of(index) == [1_000, 300]
    assert index._parts[0].stored is mapped
    index.add(vectors_of(300))
    assert counts_of(index) == [1_600]


def test_parts_stay_few(tmp_path):
    index = ExactIndex(6)
    for seed in range(40):
        index.add(vectors_of(1 + seed % 7, seed=seed))
        index.save(tmp_path / "index")
        assert len(index._parts) <= np.log2(len(index)) + 1
    assert len(ExactIndex.load(tmp_path / "index")._parts) == len(index._parts)


def test_large_parts_are_not_copied_to_be_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_LARGEST_JOINED", 4 * 6 * 100)
    index = ExactIndex(6)
    for seed in range(3):
        index.add(vectors_of(100, seed=seed))
        index.save(tmp_path / "index")
    assert counts_of(index) == [100, 100, 100]


def test_a_save_writes_only_what_is_new(saved):
    index = ExactIndex.load(saved)
    before = inodes(saved)
    index.add(vectors_of(10, seed=1))
    index.remove([3, 1_005])
    index.save(saved)
    after = inodes(saved)
    assert {name: after[name] for name in before if name != "index.json"} == {
        name: inode for name, inode in before.items() if name != "index.json"
    }
    new = {"removed.npy", *(f"parts/1/{name}.npy" for name in ("vectors", "codes", "norms", "mean"))}
    assert set(after) - set(before) == new
    loaded = ExactIndex.load(saved)
    vectors = np.concatenate([vectors_of(1_000), vectors_of(10, seed=1)])
    assert_found(loaded, vectors, ~loaded.removed, vectors_of(4, seed=2), 30)
    assert np.flatnonzero(loaded.removed).tolist() == [3, 1_005]
    # the same from the index that was saved, to another folder
    index.save(saved.with_name("other"))
    assert inodes(saved.with_name("other"))["parts/1/vectors.npy"] == after["parts/1/vectors.npy"]


def test_checksums_of_linked_files_are_those_of_the_old_manifest(saved, monkeypatch):
    index = ExactIndex.load(saved)
    read = []
    monkeypatch.setattr(
        "care_accel.index.part_files.checksum",
        lambda file: read.append(file.name) or saved_file.checksum(file),
    )
    index.remove([1])
    index.save(saved)
    assert read == ["removed.npy"]
    assert ExactIndex.load(saved, verify=True).alive == 999


def test_what_cannot_be_linked_is_written(saved, monkeypatch):
    index = ExactIndex.load(saved)
    before = inodes(saved)

    def refuse(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("care_accel.index.saved_file.os.link", refuse)
    index.save(saved)
    assert not set(inodes(saved).values()) & set(before.values())
    np.testing.assert_array_equal(ExactIndex.load(saved).vectors, vectors_of(1_000))


@pytest.mark.parametrize("resident", [None, "codes", "all"])
def test_files_that_another_index_replaced_are_not_linked(saved, resident):
    index = ExactIndex.load(saved, resident=resident)
    index_of(vectors_of(1_000, seed=5)).save(saved)
    index.save(saved.with_name("other"))
    np.testing.assert_array_equal(ExactIndex.load(saved.with_name("other")).vectors, vectors_of(1_000))
    np.testing.assert_array_equal(ExactIndex.load(saved).vectors, vectors_of(1_000, seed=5))


def test_files_that_others_can_read_are_not_linked(saved):
    (saved / "parts" / "0" / "vectors.npy").chmod(0o644)
    ExactIndex.load(saved).save(saved)
    assert {file.stat().st_mode & 0o777 for file in saved.rglob("*.npy")} == {0o600}


def test_a_moved_folder_is_found_if_the_save_was_told(tmp_path):
    index = index_of(vectors_of(50))
    index.save(tmp_path / "built" / "vectors", moved_to=tmp_path / "final" / "vectors")
    os.rename(tmp_path / "built", tmp_path / "final")
    before = inodes(tmp_path / "final" / "vectors")
    index.save(tmp_path / "again")
    assert inodes(tmp_path / "again")["parts/0/vectors.npy"] == before["parts/0/vectors.npy"]


def test_an_index_that_changed_keeps_the_folder_that_it_was_loaded_from(saved):
    index = ExactIndex.load(saved)
    index.add(vectors_of(700))
    index.remove([2])
    index.compact()
    assert (len(index), len(ExactIndex.load(saved))) == (1_699, 1_000)


KILLED = """
import os, signal, sys
import numpy as np
from care_accel import ExactIndex
from care_accel.index import part_files, store
index = ExactIndex.load(sys.argv[1])
index.add(np.ones((10, 6), np.float32))
index.remove([0])
module, name = {"array": (part_files.np.lib.format, "write_array_header_1_0"), "manifest": (store.json, "dumps")}[sys.argv[2]]
setattr(module, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
index.save(sys.argv[1])
"""


@pytest.mark.parametrize("stage", ["array", "manifest"])
def test_a_process_that_is_killed_in_a_save_leaves_the_old_index(saved, stage):
    before = inodes(saved)
    ran = subprocess.run([sys.executable, "-P", "-c", KILLED, str(saved), stage], check=False)
    assert ran.returncode == -signal.SIGKILL
    assert inodes(saved) == before
    index = ExactIndex.load(saved)
    assert index.alive == 1_000
    index.remove([0])
    index.save(saved)
    assert ExactIndex.load(saved).alive == 999


def test_a_save_that_is_interrupted_leaves_the_old_index(saved, monkeypatch):
    index = ExactIndex.load(saved)
    index.add(vectors_of(10))
    index.remove([0])
    before = inodes(saved)
    for stage in (
        "care_accel.index.part_files.np.lib.format.write_array_header_1_0",
        "care_accel.index.store.json.dumps",
    ):
        with monkeypatch.context() as patched:

            def stop(*_, **__):
                raise KeyboardInterrupt

            patched.setattr(stage, stop)
            with pytest.raises(KeyboardInterrupt):
                index.save(saved)
        assert inodes(saved) == before
        assert ExactIndex.load(saved).alive == 1_000
    index.save(saved)
    assert ExactIndex.load(saved).alive == 1_009


@pytest.mark.parametrize("damage", ["missing", "count", "bits"])
def test_a_damaged_mask_of_removed_vectors_is_refused(saved, damage):
    index = ExactIndex.load(saved)
    index.remove([1, 2])
    index.save(saved)
    if damage == "missing":
        (saved / "removed.npy").unlink()
        words = "removed.npy: is missing"
    elif damage == "count":
        file = saved / "index.json"
        file.write_text(file.read_text().replace('"removed": 2', '"removed": 3'))
        words = "'removed' is 3, but .*removed.npy has 2"
    else:
        content = bytearray((saved / "removed.npy").read_bytes())
        content[-1] ^= 1
        (saved / "removed.npy").write_bytes(content)
        words = "removed.npy: its checksum"
    with pytest.raises(CareError, match=words):
        ExactIndex.load(saved)


def test_searches_see_the_index_before_or_after_a_change(saved):
    index = ExactIndex.load(saved)
    best = np.full((1, 6), 9, np.float32)
    seen, stop = set(), threading.Event()

    def search():
        while not stop.is_set():
            seen.update(index.search(np.ones(6, np.float32), k=1)[1].tolist())

    first = int(index.search(np.ones(6, np.float32), k=1)[1][0])
    thread = threading.Thread(target=search)
    thread.start()
    new = index.replace([], best)
    for _ in range(50):
        new = index.replace(new, best)
    stop.set()
    thread.join()
    # There is always exactly one best vector; none of the others may show.
    assert seen <= {first, *range(1_000, 1_051)}
    assert index.search(np.ones(6, np.float32), k=1)[1].tolist() == new.tolist()
