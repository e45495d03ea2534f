"""Keeps a server alive: restarts it when it dies, and when a process that it needs has.

The server runs each Python model in a process of its own, a stub. One that is killed (by the system when memory is
short, say) is never started again by servers since 24.06: its model fails every request, while the server goes on
saying that it is ready, and cannot even unload the model. So the whole server is restarted.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_LOOK_EVERY = 0.2
# What other models are answering may take this long to finish; the dead one's requests would wait for longer.
_GRACE = 1.0
# A server that has lived for so long has not died of how it was started.
_LONG_ENOUGH = 60.0
_MOST_RESTARTS = 5
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG = 1


def supervise(
    command: Sequence[str], environment: Mapping[str, str], say: Callable[[str], None] | None = None
) -> int:
    """Run a server until it is told to end, or cannot be kept alive.

    Signals are the server's: they are handed on. A server that ends in order is not started again, nor one that fails
    in its first minute (its arguments or models are wrong); one that dies, at most five times in a row.

    Parameters
    ----------
    command : sequence of str
    environment : mapping of str to str
    say : callable, optional
        Called with a line when the server is restarted; standard error by default.

    Returns
    -------
    int
        The server's exit code; 128 and the signal's number if one killed it.
    """
    say = say or (lambda line: print(f"tritonserver: {line}", file=sys.stderr, flush=True))
    told: list[int] = []
    running: list[subprocess.Popen[bytes]] = []

    def hand_on(number: int, _: object) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            told.append(number)
        if running and running[0].poll() is None:
            running[0].send_signal(number)

    former = {number: signal.signal(number, hand_on) for number in _FORWARDED}
    try:
        restarts = 0
        while True:
            begun = time.monotonic()
            running[:] = [subprocess.Popen(command, env=dict(environment), preexec_fn=_end_with(os.getpid()))]
            if told:  # between two servers
                running[0].send_signal(told[0])
            why = _watch(running[0], told)
            code = running[0].returncode
            lived = time.monotonic() - begun
            restarts = 0 if lived > _LONG_ENOUGH else restarts + 1
            wrong = why is None and code > 0 and restarts == 1
            ended = why is None and code == 0
            if told or ended or wrong or restarts > _MOST_RESTARTS:
                return code if code >= 0 else 128 - code
            say(f"{why or f'the server ended by itself ({code})'}; restarting it")
            for _ in range(round((0 if restarts < 2 else 2.0 ** (restarts - 2)) / _LOOK_EVERY)):
                if not told:  # a signal interrupts no sleep
                    time.sleep(_LOOK_EVERY)
            if told:
                return code if code >= 0 else 128 - code
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def dead_stubs(server: int) -> set[int]:
    """Return the processes that a server started and that have died without its noticing."""
    dead = set()
    for file in Path(f"/proc/{server}/task").glob("*/children"):
        try:
            for child in file.read_text().split():
                # After the name, which may hold anything, comes the state.
                state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
                if state == "Z":
                    dead.add(int(child))
        except OSError:  # it has ended meanwhile
            continue
    return dead


def _watch(server: subprocess.Popen[bytes], told: Sequence[int]) -> str | None:
    """Wait until a server has ended; end it when one of its stubs has died, and say so."""
    before: set[int] = set()
    while server.poll() is None:
        dead = dead_stubs(server.pid) if not told else set()
        # Seen twice: a model that is being unloaded leaves its process for a moment.
        if lost := dead & before:
            server.terminate()
            try:
                server.wait(_GRACE)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            return f"a model's process ({min(lost)}) has died"
        before = dead
        try:
            server.wait(_LOOK_EVERY)
        except subprocess.TimeoutExpired:
            continue
    return None


def _end_with(parent: int) -> Callable[[], None]:
    """Return what has the system end the server if this process is killed; it runs in the new process."""

    def ask() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was killed just now
            os._exit(1)

    return ask
