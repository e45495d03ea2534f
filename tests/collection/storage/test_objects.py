"""Files beside a table in a folder: written whole, and some of them once."""

import threading

import pytest

from care_accel import CareError
from care_accel.collection.storage.layout import located
from care_accel.collection.storage.objects import objects_of


@pytest.fixture
def files(tmp_path):
    return objects_of(str(tmp_path / "run"))


def test_what_is_written_is_read_and_replaced(files):
    assert (files.read("a"), files.entries()) == (None, [])
    files.write("a", b"1")
    files.write("a", b"22")
    assert files.read("a") == b"22"
    assert [(entry.name, entry.bytes) for entry in files.entries()] == [("a", 2)]
    files.remove("a")
    files.remove("a")
    assert files.entries() == []


def test_of_several_who_create_a_file_one_does(files):
    won = []
    begin = threading.Barrier(8)

    def create(number):
        begin.wait()
        if files.create("a", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert files.read("a") == str(won[0]).encode()
    assert [entry.name for entry in files.entries()] == ["a"]


def test_a_file_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(CareError, match=r"run/a: cannot be written"):
        objects_of(str(tmp_path / "run")).write("a", b"1")


def test_files_and_folders_are_their_owner_s(files):
    files.write("a", b"1")
    assert files.folder.stat().st_mode & 0o077 == 0
    assert (files.folder / "a").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("file:///srv/a%20b", "/srv/a b"),
        ("file://localhost/srv/a", "/srv/a"),
        ("s3://bucket/a", "s3://bucket/a"),
        ("a/b:c", "a/b:c"),
    ],
)
def test_addresses_of_local_files_are_paths(address, path):
    assert located(address) == path


@pytest.mark.parametrize("address", ["file://host/a", "file:a", "file://"])
def test_addresses_of_files_elsewhere_are_refused(address):
    with pytest.raises(CareError, match="absolute path of this machine"):
        located(address)


def test_no_address_is_refused():
    with pytest.raises(CareError, match="the place of the collection is empty"):
        located(" ")
