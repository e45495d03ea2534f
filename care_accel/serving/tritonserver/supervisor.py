"""Supervises a server: restarts it when it or one of its model processes dies.

The server runs each Python model in a process of its own, a stub. Servers since 24.06 never restart a killed stub (for
instance by the OOM killer): its model fails every request, while the server still reports ready and cannot unload the
model. So the whole server is restarted.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from care_accel.serving.tritonserver.leftovers import now, remove_environments

_POLL_S = 0.2
# Grace period for requests of other models; those of the dead model would hang longer.
_GRACE_S = 1.0
# A server that ran this long did not fail because of its arguments or models.
_STABLE_AFTER_S = 60.0
_MAX_RESTARTS = 5
# For requests in work when the process that wanted the server has died; nobody waits for longer.
_ORPHAN_GRACE_S = 10.0
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG = 1


def supervise(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Callable[[str], None] | None = None,
    parent: int | None = None,
) -> int:
    """Run a server until it is stopped, keeps failing, or is no longer wanted.

    Signals are forwarded. A server is not restarted after a clean exit, or if its first run fails within a minute (wrong
    arguments or models); else it is restarted at most five times in a row, with backoff.

    Parameters
    ----------
    command : sequence of str
    environment : mapping of str to str
    log : callable, optional
        Called with a message on each restart; writes to standard error by default.
    parent : int, optional
        Process that started this one: if it dies, even by SIGKILL, the server is terminated.

    Returns
    -------
    int
        The server's exit code; 128 plus the signal number if it was killed.
    """
    log = log or (lambda line: print(f"tritonserver: {line}", file=sys.stderr, flush=True))
    signals: list[int] = []
    running: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: object) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            signals.append(number)
        if running and running[0].poll() is None:
            running[0].send_signal(number)

    former = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        restarts = 0
        while True:
            begun, begun_since_boot = time.monotonic(), now()
            running[:] = [
                subprocess.Popen(
                    command, env=dict(environment), preexec_fn=_end_with(os.getpid()), process_group=0
                )
            ]
            if signals:  # received between two servers
                running[0].send_signal(signals[0])
            why = _watch(running[0], signals, parent)
            code = running[0].returncode
            # A server that ends while it loads models may leave their stubs running.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(running[0].pid, signal.SIGKILL)
            if code < 0:
                remove_environments(begun_since_boot, begun_since_boot)
            lived = time.monotonic() - begun
            restarts = 0 if lived > _STABLE_AFTER_S else restarts + 1
            wrong = why is None and code > 0 and restarts == 1
            ended = why is None and code == 0
            if signals or ended or wrong or restarts > _MAX_RESTARTS or _orphaned(parent):
                return code if code >= 0 else 128 - code
            log(f"{why or f'the server exited with code {code}'}; restarting it")
            for _ in range(round((0 if restarts < 2 else 2.0 ** (restarts - 2)) / _POLL_S)):
                if not signals and not _orphaned(parent):  # signals do not interrupt time.sleep
                    time.sleep(_POLL_S)
            if signals or _orphaned(parent):
                return code if code >= 0 else 128 - code
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def dead_stubs(server: int) -> set[int]:
    """Return a server's zombie children: stubs that died unnoticed."""
    dead = set()
    for file in Path(f"/proc/{server}/task").glob("*/children"):
        try:
            for child in file.read_text().split():
                # The state follows the process name in parentheses.
                state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
                if state == "Z":
                    dead.add(int(child))
        except OSError:  # the process is gone
            continue
    return dead


def _watch(server: subprocess.Popen[bytes], signals: Sequence[int], parent: int | None) -> str | None:
    """Wait for a server to exit; terminate it if a stub or the parent has died, and return the reason."""
    before: set[int] = set()
    while server.poll() is None:
        if _orphaned(parent):
            _end(server, _ORPHAN_GRACE_S)
            return "the process that started it has died"
        dead = dead_stubs(server.pid) if not signals else set()
        # In two polls: the stub of a model being unloaded is a zombie for a moment.
        if lost := dead & before:
            _end(server, _GRACE_S)
            return f"a model's process ({min(lost)}) has died"
        before = dead
        try:
            server.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            continue
    return None


def _end(server: subprocess.Popen[bytes], grace: float) -> None:
    server.terminate()
    try:
        server.wait(grace)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _orphaned(parent: int | None) -> bool:
    # Not by a signal at the parent's death (PR_SET_PDEATHSIG): that is sent when the parent's thread ends which started
    # this process, and a server may be started in a thread.
    return parent is not None and os.getppid() != parent


def _end_with(parent: int) -> Callable[[], None]:
    """Return a preexec function: the kernel terminates the server if this process dies."""

    def ask() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before prctl
            os._exit(1)

    return ask
