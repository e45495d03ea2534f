import signal
import subprocess
import sys

import pytest

from care_accel.stopping import stops_once

# Minutes of native code, in which Python handles no signal.
_WORK = """
import hashlib
from care_accel.stopping import stops_once

with stops_once():
    print("begun", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_is_told_and_raises_nothing(number, capfd):
    before = signal.getsignal(number)
    with stops_once() as stopped:
        assert not stopped()
        signal.raise_signal(number)
        assert stopped()
        assert stopped.number == number
    assert capfd.readouterr().err.startswith("stopping after this step; Ctrl-C again stops at once")
    assert signal.getsignal(number) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_without_a_signal_nothing_is_told(capfd):
    with stops_once() as stopped:
        assert not stopped()
    assert capfd.readouterr() == ("", "")


def test_the_first_of_two_signals_is_the_one_that_stopped():
    with stops_once() as stopped:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stopped.number == signal.SIGTERM


def test_a_second_ctrl_c_ends_native_code_that_python_cannot_interrupt():
    with subprocess.Popen(
        [sys.executable, "-c", _WORK],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline().startswith("stopping after this step")
        process.send_signal(signal.SIGTERM)  # as the first: a supervisor may send several
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
