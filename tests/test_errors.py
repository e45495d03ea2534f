import os
import subprocess
import sys

import numpy as np
import pytest

from care_accel import CareError
from care_accel.errors import exit_code, require_count


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


@pytest.mark.parametrize("flush", [True, False])
def test_a_reader_that_has_gone_ends_a_command_without_a_word(flush):
    reading, writing = os.pipe()
    os.close(reading)
    code = f"""
import sys
from care_accel.errors import exit_code, require_count
sys.exit(exit_code(lambda: print("hits", flush={flush})))
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_broken_connection_is_no_reader_that_has_gone():
    with pytest.raises(BrokenPipeError):
        exit_code(raising(BrokenPipeError()))


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3", None, [1], np.array([1, 2]), np.array(1.5)])
def test_what_is_no_count_is_refused(value):
    with pytest.raises(CareError, match=r"k is .*; it must be a positive integer"):
        require_count("k", value)
    require_count("k", np.int64(3))
