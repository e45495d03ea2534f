import io
import re

from rich import console

from care_accel.curation.steps import shown, silent


def test_nothing_is_shown_where_no_terminal_is(capsys):
    for progress in (shown, silent):
        with progress("judge", 10) as done:
            done(3)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_how_many_are_done(monkeypatch):
    stream = io.StringIO()
    plain = console.Console
    monkeypatch.setattr(console, "Console", lambda **_: plain(file=stream, force_terminal=True, width=80))
    with shown("judge", 10) as done:
        done(3)
        done(4)
    assert "7/10" in re.sub(r"\x1b\[[0-9;?]*\w", "", stream.getvalue())
