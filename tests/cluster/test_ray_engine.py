"""Encoding on a Ray cluster of three nodes of this machine, with what dies there (``make cluster``)."""

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cluster_corpus import content, document, require_equal, write_lines
from poison import FAILS, KILLS, Poisoned

from care_accel import CareError, Collection, DualEncoder
from care_accel.cluster import Reading, encode_corpus
from care_accel.collection.sources import read_documents

ray = pytest.importorskip("ray", reason="needs the extra cluster: make cluster")
READING = Reading(fields=("year",))


@pytest.fixture
def encode(address):
    def run(corpus, collection, **options):
        given = {"reading": READING, "show": lambda line: None, "part_tokens": 160} | options
        return encode_corpus(corpus, collection, **{"cluster": address} | given)

    return run


@pytest.fixture
def alone(model, corpus, tmp_path):
    made = Collection.create(tmp_path / "alone", model)
    made.upsert(read_documents(corpus, fields=["year"]))
    return made


def test_a_cluster_makes_the_table_that_an_upsert_makes(corpus, model, encode, alone, tmp_path):
    parts = Collection.create(tmp_path / "parts", model)
    done = encode(corpus, parts, json_log=tmp_path / "log.jsonl")
    require_equal(content(parts.uri), content(alone.uri))
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len({event["worker"] for event in events if event["event"] == "part"}) == 2
    assert (done.deaths, done.read) == (0, 31)


def test_a_killed_worker_loses_no_more_than_its_part(corpus, encode, alone, tmp_path):
    parts = Collection.create(tmp_path / "parts", Poisoned(seconds=0.3))
    log = tmp_path / "log.jsonl"
    killed = []

    def kill(line):
        if line.endswith(" is ready (native/float32)") and not killed:
            killed.append(int(line.split()[0].rpartition(":")[2]))
            timer = threading.Timer(0.5, os.kill, (killed[0], signal.SIGKILL))
            timer.start()

    done = encode(corpus, parts, show=kill, json_log=log)
    require_equal(content(parts.uri), content(alone.uri))
    assert done.deaths == 1
    assert done.set_aside == {}


def test_a_part_that_kills_its_workers_is_set_aside_and_the_rest_completes(encode, tmp_path):
    rows = [document(number) for number in range(30)]
    rows[17]["text"] += KILLS
    file = write_lines(tmp_path / "rows.jsonl", rows)
    parts = Collection.create(tmp_path / "parts", Poisoned())
    done = encode(file, parts)
    (reason,) = done.set_aside.values()
    assert "rows.jsonl, bytes" in reason
    assert "killed its worker 3 times" in reason
    assert done.deaths == 3
    there = set(parts.ids())
    assert "d17" not in there
    assert len(there) >= 20
    rows[17]["text"] = "治好了"
    write_lines(file, rows)
    with pytest.raises(CareError, match="another plan"):
        encode(file, parts)
    encode(file, parts, new_plan=True)
    assert len(parts) == 30


def test_a_worker_whose_disk_is_full_is_not_used_and_the_others_complete(corpus, encode, alone, tmp_path):
    """It may write no more than some bytes of a file, so that its fragments cannot be written."""
    parts = Collection.create(tmp_path / "parts", Poisoned(broken=str(tmp_path / "broken")))
    told = []
    done = encode(corpus, parts, show=told.append)
    require_equal(content(parts.uri), content(alone.uri))
    assert done.set_aside == {}
    assert [line for line in told if "failed 2 times in a row and is not used" in line]
    failed = [line for line in told if "the disk is full (File too large)" in line]
    assert len(failed) == 2
    assert parts.verify(encode=3).ok


def test_the_same_error_on_every_worker_ends_the_run_with_it(encode, tmp_path):
    file = write_lines(tmp_path / "rows.jsonl", [document(n) | {"text": FAILS * 9} for n in range(30)])
    parts = Collection.create(tmp_path / "parts", Poisoned())
    with pytest.raises(CareError, match=r"no worker can work: .*No space left on device"):
        encode(file, parts)


def test_workers_without_the_model_end_the_run_in_one_line(corpus, encode, make_folder, tmp_path):
    loaded = DualEncoder.from_pretrained(make_folder)
    parts = Collection.create(tmp_path / "parts", loaded)
    loaded.encoder("document")
    dumps = pickle.dumps

    def dumped(value):
        made = dumps(value)
        shutil.move(make_folder, tmp_path / "moved")
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("care_accel.cluster.ray_engine.pickle.dumps", dumped)
        with pytest.raises(CareError, match=r"no worker can work: .*model") as told:
            encode(corpus, parts)
    assert "\n" not in str(told.value)


@pytest.fixture
def make_folder(model, tmp_path):
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    return folder


def test_a_model_of_another_hash_is_refused(corpus, encode, make_folder, tmp_path):
    loaded = DualEncoder.from_pretrained(make_folder)
    parts = Collection.create(tmp_path / "parts", loaded)
    tokens = next(make_folder.rglob("tokenizer.json"))
    tokens.write_text(tokens.read_text(encoding="utf-8") + " ", encoding="utf-8")
    with pytest.raises(CareError, match=r"no worker can work: .*do not match care\.json"):
        encode(corpus, parts)


DRIVER = """
import sys
from care_accel.cluster import Reading, encode_corpus
from poison import Poisoned
encode_corpus(sys.argv[2:], sys.argv[1], cluster={address!r}, model=Poisoned(0.3), part_tokens=160,
              reading=Reading(fields=("year",)))
"""


def test_the_same_call_goes_on_after_the_driver_was_killed(corpus, encode, alone, address, tmp_path):
    parts = Collection.create(tmp_path / "parts", Poisoned())
    command = [sys.executable, "-c", DRIVER.format(address=address), parts.uri, *map(str, corpus)]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        ended = time.monotonic() + 60
        while len(list((Path(parts.uri) / "run" / "records").glob("*.json"))) < 2:
            assert time.monotonic() < ended
            assert driver.poll() is None
            time.sleep(0.05)
    finally:
        driver.kill()
        driver.wait()
    done = encode(corpus, parts, model=Poisoned())
    require_equal(content(parts.uri), content(alone.uri))
    assert 2 <= done.parts_before < done.parts


STOPPED = """
import sys
from care_accel.cluster import Reading, encode_corpus
from care_accel.stopping import stops_once
from poison import Poisoned
with stops_once() as stop:
    done = encode_corpus(sys.argv[2:], sys.argv[1], cluster={address!r}, model=Poisoned(0.3), part_tokens=160,
                         reading=Reading(fields=("year",)), stop=stop, show=print)
print("stopped" if done.stopped else "went on")
"""


def test_sigterm_stops_the_driver_in_good_order(corpus, encode, alone, address, tmp_path):
    parts = Collection.create(tmp_path / "parts", Poisoned())
    command = [sys.executable, "-u", "-c", STOPPED.format(address=address), parts.uri, *map(str, corpus)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert next(line for line in driver.stdout if "is ready" in line)
        driver.terminate()
        said = driver.communicate(timeout=120)[0]
    finally:
        driver.kill()
    assert driver.returncode == 0
    assert said.splitlines()[-1] == "stopped"
    assert "SIGTERM received" not in said
    encode(corpus, parts, model=Poisoned())
    require_equal(content(parts.uri), content(alone.uri))


def test_an_unreachable_head_is_told_in_one_line(corpus, encode, model, tmp_path):
    parts = Collection.create(tmp_path / "parts", model)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(CareError, match=f"no Ray cluster answers at 127.0.0.1:{port}"):
        encode(corpus, parts, cluster=f"127.0.0.1:{port}")


def test_a_worker_that_fits_nowhere_ends_the_wait(corpus, encode, model, tmp_path):
    parts = Collection.create(tmp_path / "parts", model)
    with pytest.raises(CareError, match="no worker has found a place in 1 s: one needs 64 CPU"):
        encode(corpus, parts, cpus_per_worker=64, workers=1, wait_seconds=1)
