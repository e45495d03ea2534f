"""What a run tells: rates by worker, what is left, who is slowest and what is waited for, every ten seconds."""

import json
import threading

import pytest

from care_accel.cluster import progress as module
from care_accel.cluster.progress import Progress, repeated


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


def record(documents, tokens, seconds):
    return {"read": documents, "tokens": tokens, "seconds": seconds, "chunks": documents, "halved": 0}


def test_the_state_is_told_every_ten_seconds_with_rates_the_slowest_worker_and_what_is_waited_for(
    clock, tmp_path
):
    told = []
    progress = Progress(1000, tmp_path / "log.jsonl", told.append)
    progress.part(0, 300, record(90, 270, 3), "", before=True)
    progress.part(1, 100, record(30, 90, 3), "a:1", before=False)
    progress.part(2, 100, record(10, 30, 2), "b:2", before=False)
    for second in range(35):
        clock[0] = float(second)
        progress.tick("3 parts", 2, 5)
    assert len(told) == 3
    assert told[0] == (
        "2 of 5 parts in the collection; 15 documents and 45 tokens a second of 2 workers, slowest b:2 with 15 tokens; "
        "about 25 s left; waiting for 3 parts"
    )
    progress.gone("b:2")
    clock[0] = 40.0
    progress.tick("3 parts", 2, 5)
    progress.close()
    states = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()][-2:]
    assert states[0]["workers"]["b:2"] == {"documents": 5.0, "tokens": 15.0}
    assert list(states[1]["workers"]) == ["a:1"]


def test_without_a_part_done_neither_rates_nor_an_end_are_claimed(clock):
    told = []
    progress = Progress(1000, None, told.append)
    clock[0] = 10.0
    progress.tick("2 workers to load the model", 0, 5)
    assert told == ["0 of 5 parts in the collection; waiting for 2 workers to load the model"]


def test_something_long_is_told_of_until_it_ends(monkeypatch):
    monkeypatch.setattr(module, "_TURN_SECONDS", 0.001)
    told = threading.Semaphore(0)
    with repeated(told.release):
        assert all(told.acquire(timeout=60) for _ in range(3))
    while told.acquire(blocking=False):
        pass
    assert not told.acquire(timeout=0.05)
