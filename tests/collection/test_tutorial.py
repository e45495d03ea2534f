"""docs/collections.md: its commands and its Python run, and print what it says."""

import contextlib
import doctest
import io
import re
import shlex
from pathlib import Path

import pytest

from care_accel.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "collections.md"


def blocks():
    return re.findall(
        r"^```(console|python)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def steps(console):
    """Yield each command of a block, what follows it as its input, and the output that it should have."""
    for step in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command, _, rest = step.partition("\n")
        lines = rest.splitlines(keepends=True)
        fed = [line[2:] for line in lines if line.startswith("> ")]
        yield command, "".join(fed[:-1]), "".join(line for line in lines if not line.startswith("> "))


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    checker = doctest.OutputChecker()
    ran = 0
    for kind, code in blocks():
        if kind == "python":
            exec(compile(code, str(PAGE), "exec"), {})
            continue
        for command, fed, expected in steps(code):
            if file := re.fullmatch(r"cat > (\S+) <<END", command):
                Path(file[1]).write_text(fed, encoding="utf-8")
                continue
            program, *arguments = shlex.split(command)
            assert program == "care-accel"
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                assert main(arguments) == 0
            assert checker.check_output(
                expected, printed.getvalue(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            ), f"{command}\n{printed.getvalue()}"
            ran += 1
    assert ran == 6
