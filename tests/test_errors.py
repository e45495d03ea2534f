import pytest

from care_accel import CareError
from care_accel.errors import exit_code


def raising(error):
    def command():
        raise error

    return command


def test_a_command_that_works_exits_with_0():
    assert exit_code(lambda: None) == 0


def test_a_user_s_mistake_is_one_line_and_code_2(capsys):
    assert exit_code(raising(CareError("first\n  second"))) == 2
    assert capsys.readouterr().err == "error: first second\n"


def test_ctrl_c_says_how_to_go_on(capsys):
    assert exit_code(raising(KeyboardInterrupt())) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code(raising(ZeroDivisionError()))
