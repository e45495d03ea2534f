import json
import os
import shutil
import stat
import zlib
from pathlib import Path

import numpy as np
import pytest

from care_accel import CareError, ExactIndex
from care_accel.index import part_files

PART = Path("parts", "0")
DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def index():
    index = ExactIndex(5, encoder_revision="sha256:abc")
    index.add(np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32))
    return index


@pytest.fixture
def saved(index, tmp_path):
    index.save(tmp_path / "index")
    return tmp_path / "index"


def test_a_saved_index_comes_back_as_it_was(index, saved):
    loaded = ExactIndex.load(saved)
    assert (loaded.width, len(loaded), loaded.encoder_revision) == (5, 30, "sha256:abc")
    np.testing.assert_array_equal(loaded.vectors, index.vectors)
    query = np.ones(5, np.float32)
    for ours, theirs in zip(loaded.search(query), index.search(query), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_loaded_index_is_mapped_and_stays_so_when_it_grows(index, saved):
    loaded = ExactIndex.load(saved)
    assert isinstance(loaded._parts[0].stored, np.memmap)
    loaded.add(index.vectors[:2])
    assert isinstance(loaded._parts[0].stored, np.memmap)
    assert len(loaded) == 32
    np.testing.assert_array_equal(loaded.vectors[30:], index.vectors[:2])
    assert len(ExactIndex.load(saved)) == 30


def test_an_empty_index_can_be_saved(tmp_path):
    ExactIndex(7).save(tmp_path / "index")
    loaded = ExactIndex.load(tmp_path / "index")
    assert (len(loaded), loaded.width, loaded.encoder_revision) == (0, 7, None)
    loaded.add(np.ones((2, 7), np.float32))
    assert list(loaded.search(np.ones(7, np.float32), k=2)[1]) == [0, 1]


@pytest.mark.parametrize("resident", [None, "codes", "all"])
def test_what_is_resident_changes_no_hit(index, saved, resident):
    loaded = ExactIndex.load(saved, resident=resident)
    kept = {None: [], "codes": ["codes"], "all": ["codes", "vectors"]}[resident]
    arrays = {"vectors": loaded._parts[0].stored, "codes": loaded._parts[0].codes.bytes}
    assert [name for name, array in sorted(arrays.items()) if not isinstance(array, np.memmap)] == kept
    queries = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)
    for ours, theirs in zip(loaded.search(queries), index.search(queries), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("resident", [None, "codes", "all"])
def test_int4_codes_are_saved_with_the_index(tmp_path, resident):
    rng = np.random.default_rng(0)
    index = ExactIndex(20)
    index._parts[0].codes.int4_min_bytes = 0
    index.add(rng.standard_normal((6000, 20)).astype(np.float32))
    index.save(tmp_path / "index")
    loaded = ExactIndex.load(tmp_path / "index", resident=resident)
    assert isinstance(loaded._parts[0].codes.int4.bytes, np.memmap) == (resident is None)
    for query in rng.standard_normal((3, 20)).astype(np.float32):
        for ours, theirs in zip(loaded.search(query), index.search(query), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for part in ("bytes", "residuals"):
        shown = [getattr(one._parts[0].codes.int4, part)[:375] for one in (loaded, index)]
        np.testing.assert_array_equal(*shown)
    # An index without them replaces one with them.
    small = ExactIndex(20)
    small.save(tmp_path / "index")
    assert ExactIndex.load(tmp_path / "index")._parts[0].codes.int4 is None


def test_an_unknown_residence_is_refused(saved):
    with pytest.raises(CareError, match="resident is 'disk'"):
        ExactIndex.load(saved, resident="disk")


def test_checksums_are_compared_unless_they_are_not_wanted(saved):
    turn_a_byte(saved / PART, "vectors.npy")
    assert len(ExactIndex.load(saved, verify=False)) == 30


def test_the_order_is_saved_along(tmp_path):
    ExactIndex(3, order="slice-then-normalize").save(tmp_path / "index")
    assert ExactIndex.load(tmp_path / "index").order == "slice-then-normalize"


def test_only_the_owner_can_read_the_files(saved):
    assert stat.S_IMODE(saved.stat().st_mode) == 0o700
    entries = list(saved.rglob("*"))
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in entries if entry.is_file()} == {0o600}
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in entries if entry.is_dir()} == {0o700}


def test_an_index_is_replaced_and_leaves_nothing_beside_it(index, saved):
    index.add(index.vectors[:1])
    index.save(saved)
    assert len(ExactIndex.load(saved)) == 31
    assert [p.name for p in saved.parent.iterdir()] == ["index"]


def test_an_index_can_be_saved_over_the_one_that_it_was_loaded_from(index, saved):
    loaded = ExactIndex.load(saved)
    loaded.save(saved)
    np.testing.assert_array_equal(ExactIndex.load(saved).vectors, index.vectors)
    np.testing.assert_array_equal(loaded.vectors, index.vectors)


def test_an_interrupted_save_leaves_the_old_index_whole(index, saved, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    index.add(index.vectors[:1])
    monkeypatch.setattr("care_accel.index.part_files.np.lib.format.write_array_header_1_0", stop)
    with pytest.raises(KeyboardInterrupt):
        index.save(saved)
    assert len(ExactIndex.load(saved)) == 30
    assert [p.name for p in saved.parent.iterdir()] == ["index"]


def test_a_full_disk_is_told_and_the_old_index_stays(index, saved, full_disk):
    index.add(np.zeros((2_000, 5), np.float32))
    with full_disk(16_000), pytest.raises(CareError) as raised:
        index.save(saved)
    assert str(raised.value) == (
        f"{saved}: the disk is full (File too large); nothing there has changed; free some space, or choose a folder on another disk"
    )
    assert len(ExactIndex.load(saved)) == 30
    assert [p.name for p in saved.parent.iterdir()] == ["index"]
    index.save(saved)
    assert len(ExactIndex.load(saved)) == 2_030


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.uint8),
        np.zeros((0, 4), np.float32),
        np.arange(24.0).reshape(4, 6)[:, :5],
        np.ones((3, 2)).T,
    ],
    ids=["bytes", "empty", "part", "columns"],
)
def test_a_file_is_what_numpy_writes(tmp_path, array):
    part_files.write_array(tmp_path / "a.npy", array)
    np.save(tmp_path / "b.npy", np.ascontiguousarray(array))
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_a_save_that_cannot_take_its_place_brings_the_old_index_back(index, saved, monkeypatch):
    rename = os.replace

    def refuse_the_new(source, target):
        if target == saved and source.name != "old":
            raise OSError("no space left")
        rename(source, target)

    monkeypatch.setattr("care_accel.folders._exchanged", lambda *_: False)
    monkeypatch.setattr("care_accel.folders.os.replace", refuse_the_new)
    with pytest.raises(OSError, match="no space left"):
        index.save(saved)
    assert len(ExactIndex.load(saved)) == 30
    assert [p.name for p in saved.parent.iterdir()] == ["index"]


def test_an_index_is_always_there_while_it_is_replaced(index, saved, monkeypatch):
    def not_in_two_steps(source, target):
        raise AssertionError(f"{source} was renamed to {target}")

    monkeypatch.setattr("care_accel.folders.os.replace", not_in_two_steps)
    index.add(index.vectors[:1])
    index.save(saved)
    assert len(ExactIndex.load(saved)) == 31
    assert [p.name for p in saved.parent.iterdir()] == ["index"]


def test_a_folder_with_more_than_an_index_in_it_is_refused(index, saved):
    (saved / "thesis.txt").write_text("do not lose me")
    with pytest.raises(CareError, match=r"thesis\.txt, which saving would delete"):
        index.save(saved)
    assert (saved / "thesis.txt").read_text() == "do not lose me"


def test_a_link_to_an_index_stays_one(index, saved, tmp_path):
    (tmp_path / "link").symlink_to(saved)
    index.add(index.vectors[:1])
    index.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert len(ExactIndex.load(saved)) == 31


def test_anything_else_in_the_way_is_refused(index, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("do not lose me")
    with pytest.raises(CareError, match=r"letters exists and has no index\.json"):
        index.save(tmp_path / "letters")
    assert (tmp_path / "letters" / "dear.txt").read_text() == "do not lose me"
    for name in ("file", "index.json"):
        (tmp_path / name).write_text("nor me")
        with pytest.raises(CareError, match=f"{name} is a file; choose a folder"):
            index.save(tmp_path / name)
        assert (tmp_path / name).read_text() == "nor me"


def test_an_empty_folder_may_become_an_index(index, tmp_path):
    (tmp_path / "new").mkdir()
    index.save(tmp_path / "new")
    assert len(ExactIndex.load(tmp_path / "new")) == 30


def change(saved, **values):
    file = saved / "index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def change_part(saved, **values):
    part = json.loads((saved / "index.json").read_text())["parts"][0]
    change(saved, parts=[part | values])


def accept(saved, name):
    """Write into the manifest what the file is now."""
    files = json.loads((saved / "index.json").read_text())["parts"][0]["files"]
    content = (saved / PART / name).read_bytes()
    change_part(saved, files=files | {name: {"bytes": len(content), "crc32": zlib.crc32(content)}})


def shorten(saved):
    file = saved / PART / "vectors.npy"
    file.write_bytes(file.read_bytes()[:-4])


def turn_a_byte(saved, name):
    content = bytearray((saved / name).read_bytes())
    content[-1] ^= 1
    (saved / name).write_bytes(content)


def pickle_vectors(saved):
    np.save(saved / PART / "vectors.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    accept(saved, "vectors.npy")


def turn_columns_first(saved):
    file = saved / PART / "vectors.npy"
    np.save(file, np.asfortranarray(np.load(file)))
    accept(saved, "vectors.npy")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda s: (s / "index.json").unlink(), "index.json: no such file"),
        (lambda s: (s / "index.json").write_text("{"), "index.json: cannot be read as JSON"),
        (lambda s: change(s, format=99), "format 99 is unknown"),
        (lambda s: change(s, width=6), r"its manifest says float32 \[30, 6\]"),
        (lambda s: change(s, width="6"), "'width' is '6'"),
        (lambda s: change(s, count=-1), "'count' is -1"),
        (lambda s: change(s, width=2**20), "width 1048576 is not supported"),
        (lambda s: change_part(s, exponent=1000), "'exponent' is 1000"),
        (lambda s: change(s, order="sliced"), "order 'sliced' is unknown"),
        (lambda s: change_part(s, files=[]), "does not list vectors.npy"),
        (lambda s: turn_a_byte(s / PART, "vectors.npy"), "vectors.npy: its checksum"),
        (lambda s: turn_a_byte(s / PART, "codes.npy"), "codes.npy: its checksum"),
        (lambda s: change_part(s, count=29), r"its manifest says float32 \[29, 5\]"),
        (lambda s: change(s, count=29), "'count' is 29, but its parts have other counts"),
        (lambda s: change(s, parts=None), "'parts' must be a list of parts"),
        (lambda s: change(s, parts=[1]), "'parts' must be a list of parts"),
        (lambda s: change(s, removed=1), "does not list removed.npy"),
        (lambda s: (s / PART / "vectors.npy").unlink(), "vectors.npy: is missing"),
        (shorten, "vectors.npy: has 7.. bytes, but its manifest says"),
        (pickle_vectors, "vectors.npy: cannot be read"),
        (turn_columns_first, "vectors.npy: is in column-major order"),
    ],
)
def test_a_folder_that_is_no_whole_index_is_refused_in_one_line(saved, damage, words):
    damage(saved)
    with pytest.raises(CareError, match=words) as error:
        ExactIndex.load(saved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("resident", [None, "codes", "all"])
def test_an_index_of_release_0_1_finds_what_it_found_then(resident):
    expected = json.loads((DATA / "hits-0.1.json").read_text(encoding="utf-8"))
    queries = np.array(expected["queries"], np.float32)
    index = ExactIndex.load(DATA / "index-0.1", resident=resident)
    for rows in (slice(None), slice(0, 1), slice(1, 2)):
        scores, ids, _ = index.search_in_float64(queries[rows], expected["k"])
        assert ids.tolist() == expected["index"]["ids"][rows]
        assert scores.tolist() == expected["index"]["scores"][rows]  # to the last bit
    int4 = index._parts[0].codes.int4
    for array, name in zip(
        (int4.bytes, int4.residuals, int4.norms), part_files.OLD_NAMES.values(), strict=True
    ):
        np.testing.assert_array_equal(array, np.load(DATA / "index-0.1" / name))
    assert (int4.value_scales == 1).all()


def test_an_index_of_release_0_1_is_replaced_by_one_of_today(tmp_path):
    shutil.copytree(DATA / "index-0.1", tmp_path / "index")
    expected = json.loads((DATA / "hits-0.1.json").read_text(encoding="utf-8"))
    ExactIndex.load(tmp_path / "index").save(tmp_path / "index")
    names = {file.name for file in (tmp_path / "index").iterdir()}
    assert names == {"index.json", "parts"}
    files = {file.name for file in (tmp_path / "index" / PART).iterdir()}
    assert files == {*part_files.FILES, *part_files.INT4_FILES}
    found = ExactIndex.load(tmp_path / "index").search(
        np.array(expected["queries"], np.float32), expected["k"]
    )[1]
    assert found.tolist() == expected["index"]["ids"]
