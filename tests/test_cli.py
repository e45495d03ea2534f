import pytest

from care_accel import __version__
from care_accel.cli import main


def test_the_version_is_the_package_s(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"care-accel {__version__}"


@pytest.mark.parametrize("arguments", [[], ["dance"], ["train"]])
def test_a_verb_that_is_missing_or_unknown_is_refused(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eval", "--data-dir", "nowhere"], "nowhere: no such folder"),
        (["compare", "nowhere", "nowhere"], "nowhere: no such file"),
        (["train", "nowhere.yaml", "--data-dir", "."], "nowhere.yaml: cannot be read"),
        (["curate", "vote", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, words, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert words in error
    assert "\n" not in error
