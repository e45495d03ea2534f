"""The native runtime with threads that take part when they have woken up."""

import threading
import time

import numpy as np
import pytest

from care_accel import DualEncoder


@pytest.fixture(scope="module", params=["float32", "int8"])
def runtime(request):
    """Return one that is worth two threads for any text, and more for a long one."""
    return (
        DualEncoder.from_pretrained("care-mini", dtype=request.param, device="cpu").encoder("query").runtime
    )


def encoded(runtime, rows, threads):
    runtime.threads = threads
    return runtime.encode_rows(rows)


@pytest.mark.parametrize("length", [1, 7, 70])
def test_threads_never_change_a_text_alone_whenever_they_come(runtime, length):
    rows = [list(range(5, 5 + length))]
    expected = encoded(runtime, rows, 1)
    for call in range(24):
        # They fall asleep between calls, or not: so they come early, in the middle of a call, or after its end.
        time.sleep(call % 3 * 5e-4)
        assert np.array_equal(encoded(runtime, rows, 2 + call % 3), expected)


def test_calls_from_many_threads_take_turns(runtime):
    texts = [[list(range(5, 8 + n)), [9] * (1 + 3 * n)] for n in range(6)]
    expected = [encoded(runtime, rows, 1) for rows in texts]
    runtime.threads = 3
    found = {}

    def run(place):
        found[place] = [runtime.encode_rows(texts[place]) for _ in range(5)]

    callers = [threading.Thread(target=run, args=(place,)) for place in range(len(texts))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for place, vectors in enumerate(expected):
        assert len(found[place]) == 5
        assert all(np.array_equal(one, vectors) for one in found[place])
