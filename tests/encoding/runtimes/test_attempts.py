from types import SimpleNamespace

import pytest

from care_accel import CareError
from care_accel.encoding.runtimes.attempts import Attempts


def error(status="UNAVAILABLE", words="as told"):
    return SimpleNamespace(status=lambda: f"StatusCode.{status}", message=lambda: words)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def attempts(timeout=60.0, retries=10, chance=1.0, reached=False):
    clock = Clock()
    return Attempts("localhost:8001", "search", timeout, retries, reached, clock, lambda: chance), clock


def pauses(some, clock, count):
    found = []
    for _ in range(count):
        found.append(some.pause(error()))
        clock.now += found[-1]
    return found


def test_pauses_double_up_to_a_limit():
    assert pauses(*attempts(), 7) == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])


def test_chance_takes_away_half_of_a_pause_at_most():
    assert pauses(*attempts(chance=0.0), 3) == pytest.approx([0.05, 0.1, 0.2])


def test_tries_end_after_the_retries():
    some, clock = attempts(retries=2)
    pauses(some, clock, 2)
    with pytest.raises(CareError, match="as told"):
        some.pause(error())


def test_a_server_that_was_there_before_is_waited_for_until_the_deadline_unless_it_is_only_overloaded():
    some, clock = attempts(retries=0, timeout=10.0, reached=True)
    assert sum(pauses(some, clock, 8)) > 8
    with pytest.raises(CareError, match="no inference server answers"):
        some.pause(error())
    some, _ = attempts(retries=0, reached=True)
    with pytest.raises(CareError, match="is overloaded"):
        some.pause(error(words="Exceeds maximum queue size"))


def test_a_model_that_the_server_unloads_to_end_is_waited_for():
    unloaded = error("NOT_FOUND", "Request for unknown model: 'search' has no available versions")
    assert attempts(retries=0, reached=True)[0].pause(unloaded) > 0
    with pytest.raises(CareError, match="serves no model 'search'"):
        attempts()[0].pause(unloaded)


def test_a_server_whose_model_has_died_is_waited_for_as_it_is_started_anew():
    dead = error("INTERNAL", "in ensemble 'search', Stub process 'scan_0_0' is not healthy.")
    assert attempts(retries=0, reached=True)[0].pause(dead) > 0
    with pytest.raises(CareError, match="search failed: INTERNAL: in ensemble 'search', Stub process"):
        attempts(retries=0)[0].pause(dead)


def test_a_call_that_a_server_cut_off_as_it_ended_is_made_again():
    cut = error("CANCELLED", "CANCELLED")
    assert attempts(retries=0, reached=True)[0].pause(cut) > 0
    with pytest.raises(CareError, match="search failed: CANCELLED"):
        attempts()[0].pause(cut)


def test_a_last_try_that_the_deadline_cuts_short_is_told_by_what_the_server_had_said():
    some, clock = attempts(retries=0, timeout=1.0, reached=True)
    some.pause(error(words="1 of 2 shards do not answer"))
    clock.now += 1.0
    with pytest.raises(CareError, match="1 of 2 shards") as told:
        some.pause(error("DEADLINE_EXCEEDED", "Deadline Exceeded"))
    assert told.value.status == "UNAVAILABLE"
    alone, _ = attempts()
    with pytest.raises(CareError, match="did not answer within 60 s"):
        alone.pause(error("DEADLINE_EXCEEDED", "Deadline Exceeded"))


def test_no_pause_goes_beyond_the_deadline():
    some, clock = attempts(timeout=1.0)
    assert sum(pauses(some, clock, 3)) == pytest.approx(0.7)
    assert some.seconds() == pytest.approx(0.3)
    with pytest.raises(CareError, match="as told"):
        some.pause(error())


def test_a_deadline_that_has_passed_leaves_no_time_below_nought():
    some, clock = attempts(timeout=1.0)
    clock.now += 5
    assert 0 < some.seconds() < 0.01


@pytest.mark.parametrize(
    ("status", "words", "line"),
    [
        ("UNAVAILABLE", "[request id: <id_unknown>] Exceeds maximum queue size",
         "localhost:8001: search is overloaded (Exceeds maximum queue size); try again later, or use more retries"),
        ("UNAVAILABLE", "the collection is compacted so often that no version stays",
         "localhost:8001: search is overloaded (the collection is compacted so often that no version stays); "),
        ("UNAVAILABLE", "Request timeout expired", "localhost:8001: search is overloaded (Request timeout expired); "),
        ("UNAVAILABLE", "failed to connect", "localhost:8001: no inference server answers (failed to connect); "),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", "localhost:8001: search did not answer within 60 s; "),
        ("NOT_FOUND", "unknown model", "localhost:8001: serves no model 'search' (unknown model); "),
        ("INVALID_ARGUMENT", "TEXT 0 is empty", "search: TEXT 0 is empty"),
        ("INTERNAL", "line 1\n  line 2", "localhost:8001: search failed: INTERNAL: line 1 line 2"),
    ],
)  # fmt: skip
def test_what_went_wrong_is_one_line(status, words, line):
    some, _ = attempts(retries=0)
    with pytest.raises(CareError) as said:
        some.pause(error(status, words))
    assert str(said.value).startswith(line)
    assert said.value.status == status
