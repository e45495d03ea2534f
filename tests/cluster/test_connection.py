"""The head of a cluster that does not answer."""

import socket

import pytest

from care_accel import CareError
from care_accel.cluster import connection
from care_accel.cluster.connection import Head


def test_a_head_may_be_away_for_a_while_and_ends_the_run_in_one_line_after_that(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(connection, "monotonic", lambda: now[0])
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(8)
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        head = Head(address)
        now[0] = 100.0
        assert head.answers()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", int(address.rpartition(":")[2])))
        now[0] = 139.0
        assert not head.answers()
        now[0] = 141.0
        with pytest.raises(
            CareError, match=f"at {address} has not answered for 41 s .*run the same command"
        ) as told:
            head.answers()
    assert "\n" not in str(told.value)
