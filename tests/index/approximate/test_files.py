import json
import shutil

import numpy as np
import pytest
from planted_vectors import ROWS, WIDTH, clustered

from care_accel import ApproximateIndex, CareError, ExactIndex

QUERIES = clustered(40, 5)


@pytest.fixture
def folder(shared, tmp_path):
    shared.save(tmp_path / "index")
    return tmp_path / "index"


def change_manifest(folder, **values):
    file = folder / "approximate.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | values))


def change_choice(folder, **values):
    manifest = json.loads((folder / "approximate.json").read_text())
    change_manifest(folder, choice=manifest["choice"] | values)


def test_a_saved_index_finds_the_same_and_knows_how_it_was_chosen(shared, folder):
    again = ApproximateIndex.load(folder)
    assert again.choice == shared.choice
    assert again.choice.text() == shared.choice.text()
    for query in QUERIES:
        for one, other in zip(again.search(query, 10), shared.search(query, 10), strict=True):
            np.testing.assert_array_equal(one, other)
    assert ExactIndex.load(folder / "vectors").search(QUERIES)[1].shape == (40, 10)
    assert all(file.stat().st_mode & 0o077 == 0 for file in folder.rglob("*"))


def test_what_was_changed_since_the_build_is_saved_too(build, tmp_path):
    index = build()
    index.remove([5, 7])
    again = index.rebuild(queries=clustered(900, 1))
    again.add(clustered(10, 3))
    again.remove([9, ROWS + 2])
    for _ in range(2):
        again.save(tmp_path / "index")
        found = ApproximateIndex.load(tmp_path / "index")
        assert (len(found), found.alive, found.choice.vectors) == (ROWS + 10, ROWS + 6, ROWS - 2)
        for query in QUERIES:
            np.testing.assert_array_equal(found.search(query, 10)[1], again.search(query, 10)[1])
        again = found


def test_other_files_in_the_folder_are_not_deleted(shared, folder):
    (folder / "notes.txt").touch()
    with pytest.raises(CareError, match=r"contains notes\.txt"):
        shared.save(folder)


def test_other_vectors_are_refused_by_their_hash(folder):
    other = ExactIndex(WIDTH)
    other.add(clustered(ROWS, 44))
    shutil.rmtree(folder / "vectors")
    other.save(folder / "vectors")
    with pytest.raises(CareError, match="other vectors than the index was built of, by their hash"):
        ApproximateIndex.load(folder)


def test_another_number_of_vectors_is_refused(folder):
    shutil.rmtree(folder / "vectors")
    other = ExactIndex(WIDTH)
    other.add(clustered(ROWS + 1, 0))
    other.save(folder / "vectors")
    with pytest.raises(CareError, match=r"has other vectors than .*approximate\.json says"):
        ApproximateIndex.load(folder)


def test_another_release_of_faiss_is_refused(folder):
    change_choice(folder, faiss="1.2.9")
    with pytest.raises(
        CareError, match=r"was built by faiss 1\.2\.9, and here is .* or install faiss 1\.2\.9"
    ):
        ApproximateIndex.load(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": 9}, "format 9 is unknown"),
        ({"choice": {}}, "is damaged: 'choice': field 'name' is missing"),
        ({"choice": 1}, "'choice' or 'files' is damaged"),
        ({"files": {}}, "does not list structure.faiss"),
        ({"built": "all"}, "has other vectors"),
        ({"built": ROWS - 1}, "has other vectors"),
    ],
)
def test_a_damaged_manifest_is_refused(folder, values, message):
    change_manifest(folder, **values)
    with pytest.raises(CareError, match=message) as refused:
        ApproximateIndex.load(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        *(
            {name: wrong}
            for name in ("k", "value", "candidates", "vectors")
            for wrong in (-1, 10**30, "8", None)
        ),
        {"value": 0},
        {"asked": 2},
        {"tried": [{}]},
        {"tried": [{"name": "x", "bytes": None}]},
        {"held_out": 3},
        {"held_out": {"recall": "1", "low": 0.9, "high": 1, "queries": 5}},
        {"least_share": "all"},
        {"least_alive": []},
        {"exact_from": "4"},
        {"exact_us": None},
    ],
)
def test_a_damaged_choice_is_refused(folder, values):
    change_choice(folder, **values)
    with pytest.raises(CareError, match=r"(choice|vectors)"):
        ApproximateIndex.load(folder)


@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
def test_a_damaged_structure_is_refused_before_faiss_reads_it(folder, how):
    file = folder / "structure.faiss"
    data = bytearray(file.read_bytes())
    if how == "gone":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data[: len(data) // 2] if how == "cut" else data)
    with pytest.raises(CareError, match=r"structure\.faiss: (is missing|has|its checksum)"):
        ApproximateIndex.load(folder, verify=False)


def test_a_structure_that_is_not_one_of_faiss_is_refused(folder):
    import zlib

    data = b"none of this is an index"
    (folder / "structure.faiss").write_bytes(data)
    change_manifest(folder, files={"structure.faiss": {"bytes": len(data), "crc32": zlib.crc32(data)}})
    with pytest.raises(CareError, match=r"structure\.faiss: cannot be read by faiss") as refused:
        ApproximateIndex.load(folder)
    assert "\n" not in str(refused.value)


def test_a_structure_of_other_vectors_is_refused(folder, build, tmp_path):
    build(clustered(1500, 1), family=["IVF16,Flat"]).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "structure.faiss", folder / "structure.faiss")
    listed = json.loads((tmp_path / "other" / "approximate.json").read_text())["files"]
    change_manifest(folder, files=listed)
    with pytest.raises(CareError, match="has 1,500 vectors of width 16, not those of its manifest"):
        ApproximateIndex.load(folder)


def test_parts_that_cannot_be_resident_are_refused(folder):
    with pytest.raises(CareError, match="resident is 'some'"):
        ApproximateIndex.load(folder, resident="some")


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(CareError, match="a saved approximate index has one"):
        ApproximateIndex.load(tmp_path)
