"""One driver of a collection at a time: by a lock of the system in a folder, by files that are created once in a store."""

import json

import pytest

from care_accel import CareError
from care_accel.collection.storage import driver_lock as module
from care_accel.collection.storage.driver_lock import _Lease, driver_lock
from care_accel.collection.storage.objects import objects_of


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Return the files of a lock whose times are short."""
    monkeypatch.setattr(module, "_BEAT", 0.02)
    monkeypatch.setattr(module, "_GONE", 0.3)
    monkeypatch.setattr(module, "_LOOK", 0.02)
    return objects_of(str(tmp_path / "run.lock"))


def test_a_folder_has_one_driver(tmp_path):
    with (
        driver_lock(str(tmp_path)) as check,
        pytest.raises(CareError, match=r"process \d+ on .* is encoding"),
        driver_lock(str(tmp_path)),
    ):
        pass
    check()
    with driver_lock(str(tmp_path)):
        pass


def test_a_holder_that_is_heard_keeps_its_lease_and_leaves_nothing(files):
    with _Lease(files).held(), pytest.raises(CareError, match=r"process \d+ on .* is encoding"):
        _Lease(files)._take()
    assert files.entries() == []


def test_a_lease_of_a_process_that_is_gone_is_taken_over(files):
    files.create("000004.json", json.dumps({"holder": "process 1 on elsewhere", "beats": 7}).encode())
    with _Lease(files).held():
        assert "000005.json" in [entry.name for entry in files.entries()]
    assert files.entries() == []


def test_who_lost_the_lease_may_not_commit(files):
    lease = _Lease(files)
    with lease.held():
        lease.check()
        files.create("000002.json", b'{"holder": "another"}')
        with pytest.raises(CareError, match="another process has taken the lock"):
            lease.check()
    assert [entry.name for entry in files.entries()] == ["000002.json"]


def test_of_two_who_take_over_one_does(files, monkeypatch):
    files.create("000001.json", b'{"holder": "gone"}')
    first, second = _Lease(files), _Lease(files)
    create = type(files).create

    def late(self, name, data):
        monkeypatch.undo()
        module_gone(monkeypatch)
        first._take()
        return create(self, name, data)

    monkeypatch.setattr(type(files), "create", late)
    with pytest.raises(CareError, match="is encoding"):
        second._take()


def module_gone(monkeypatch):
    monkeypatch.setattr(module, "_GONE", 0.1)
    monkeypatch.setattr(module, "_LOOK", 0.02)
