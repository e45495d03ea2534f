"""Batches of requests: refused whole or one by one, and answered in their order."""

from types import SimpleNamespace

from care_accel import CareError
from care_accel.serving.backend.requests import respond

BACKEND = SimpleNamespace(
    overload=lambda why, requests: [why] * requests,
    refusal=lambda mistake: f"refused: {mistake}",
    failure=lambda why: f"failed: {type(why).__name__}",
)


class Backlog:
    """Stands for the watch over the queue."""

    def __init__(self, reason=None):
        self.reason, self.recorded = reason, []

    def overload_reason(self, requests):
        return self.reason

    def record(self, requests, seconds):
        self.recorded.append(requests)


def read(request):
    if request == "invalid":
        raise CareError("no such thing")
    return int(request)


def test_valid_requests_are_answered_together_and_in_their_order():
    backlog, together = Backlog(), []

    def answer(asked):
        together.append(asked)
        return [2 * one for one in asked]

    found = respond(BACKEND, backlog, ["1", "invalid", "3", "odd", "4"], read, answer)
    assert found == [2, "refused: no such thing", 6, "failed: ValueError", 8]
    assert together == [[1, 3, 4]]
    assert backlog.recorded == [5]


def test_where_no_request_is_valid_nothing_is_computed():
    backlog = Backlog()
    assert respond(BACKEND, backlog, ["invalid"], read, None) == ["refused: no such thing"]
    assert backlog.recorded == []


def test_a_failure_is_told_to_each_that_was_answered_with_it():
    found = respond(BACKEND, Backlog(), ["1", "invalid", "0"], read, lambda asked: [1 / one for one in asked])
    assert found == ["failed: ZeroDivisionError", "refused: no such thing", "failed: ZeroDivisionError"]


def test_nothing_is_read_while_too_many_wait():
    assert respond(BACKEND, Backlog("wait"), ["1", "2"], None, None) == ["wait", "wait"]
