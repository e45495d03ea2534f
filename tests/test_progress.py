import io
import re

import pytest
from rich import console

from care_accel.progress import progress_bar


def test_nothing_is_drawn_where_no_terminal_is(capsys):
    with progress_bar("judge", 10) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("show", [True, False])
def test_a_terminal_shows_how_many_are_done_if_it_is_asked_to(monkeypatch, show):
    stream = io.StringIO()
    plain = console.Console
    monkeypatch.setattr(console, "Console", lambda **_: plain(file=stream, force_terminal=True, width=80))
    with progress_bar("judge", 10, show=show) as advance:
        advance(3)
        advance(4)
    assert ("7/10" in re.sub(r"\x1b\[[0-9;?]*\w", "", stream.getvalue())) == show
