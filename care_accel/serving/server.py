"""Starts an inference server and ends it: `Server`."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from care_accel.errors import CareError
from care_accel.serving.program import ADDRESSES, LOOPBACK, find_program

_TELL_EVERY = 10.0
# What a server without a GPU says of itself in any case.
_NO_ERROR = "CudaDriverHelper"


class Server:
    """A server that runs while the context lasts.

    Parameters
    ----------
    repository : str or Path
    http, grpc, metrics : int, optional
        Ports on loopback; free ones by default.
    arguments : sequence of str
        More of the server's own.
    log : str or Path, optional
        Where its output goes; a temporary file by default.
    host : str
        The address that it listens on. Whoever reaches it can use every model.
    shared_memory : bool
        Let clients register shared memory.

    Attributes
    ----------
    http, grpc, metrics : str
        ``host:port`` of each front end.
    process : subprocess.Popen
        The script ``tritonserver``, whose child is the server (see `care_accel.serving.supervisor`).
    log : Path

    Raises
    ------
    CareError
        There is no server, or it could not start: its own words say why.
    """

    def __init__(
        self,
        repository: str | Path,
        *,
        http: int | None = None,
        grpc: int | None = None,
        metrics: int | None = None,
        arguments: Sequence[str] = (),
        log: str | Path | None = None,
        host: str = LOOPBACK,
        shared_memory: bool = False,
    ) -> None:
        self.program = find_program()
        self.repository = Path(repository)
        if not self.repository.is_dir():
            raise CareError(
                f"{self.repository}: no such model repository; care-accel export --repository writes one"
            )
        ports = dict(zip(ADDRESSES, (http, grpc, metrics), strict=True))
        free = iter(free_ports(sum(port is None for port in ports.values())))
        self._ports = {name: next(free) if port is None else port for name, port in ports.items()}
        for name, port in self._ports.items():
            require_free(host, port, name)
        self._host = host
        self.http, self.grpc, self.metrics = (f"{host}:{port}" for port in self._ports.values())
        self._arguments, self._shared_memory = list(arguments), shared_memory
        self._temporary: str | None = None
        if log is None:
            self._temporary = tempfile.mkdtemp(prefix="care-server-")
            log = Path(self._temporary) / "log"
        self.log = Path(log)
        self.process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        timeout: float = 120.0,
        progress: Callable[[str], None] | None = None,
        ended: threading.Event | None = None,
    ) -> Server:
        """Start the server and wait until every model is ready.

        Parameters
        ----------
        timeout : float
            Seconds.
        progress : callable, optional
            Called with a line when something goes on.
        ended : threading.Event, optional
            Once it is set, nobody waits any longer.
        """
        command = [
            *(sys.executable, "-m", "care_accel.serving.launcher"),
            *(["--shared-memory"] if self._shared_memory else []),
            f"--model-repository={self.repository}",
            *(f"--{name}-port={port}" for name, port in self._ports.items()),
            *(f"--{name}-address={self._host}" for name in self._ports),
            *self._arguments,
        ]
        try:
            stream = self.log.open("wb")
        except OSError as cause:
            raise CareError(f"{self.log}: the log cannot be written there: {cause.strerror}") from None
        with stream:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
        if progress:
            progress(f"starting {self.program.binary} (log: {self.log})")
        begun = told = time.monotonic()
        end = begun + timeout
        try:
            while not self.ready() and not (ended and ended.is_set()):
                if self.process.poll() is not None:
                    raise CareError(f"the server did not start: {first_error(self.log)}")
                now = time.monotonic()
                if now > end:
                    raise CareError(f"the server was not ready after {timeout:g} s; its log is {self.log}")
                if progress and now - told > _TELL_EVERY:
                    told = now
                    progress(f"{now - begun:.0f} s: {still_loading(self.log)}")
                time.sleep(0.05)
        except BaseException:
            self.stop()
            raise
        return self

    def ready(self) -> bool:
        """Tell whether the server answers and every model is ready."""
        try:
            with urllib.request.urlopen(f"http://{self.http}/v2/health/ready", timeout=2) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False

    def died(self) -> bool:
        """Tell whether the server has ended by itself."""
        return self.process is not None and self.process.poll() is not None

    def stop(self, timeout: float = 40.0) -> int:
        """Let requests in flight finish, end the server and return its exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    def remove_log(self) -> None:
        """Remove a log that is a temporary file. After an error it stays: the error names it."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def __enter__(self) -> Server:
        return self if self.process is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.remove_log()


def free_ports(count: int) -> list[int]:
    """Return ports on loopback that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def require_free(host: str, port: int, name: str) -> None:
    """Refuse a port that cannot be listened on.

    Raises
    ------
    CareError
        Somebody listens there, or the address is none of this machine's.
    """
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
        except (OSError, OverflowError) as cause:
            why = cause.strerror if isinstance(cause, OSError) else "a port is 1 to 65535"
            raise CareError(
                f"{name} cannot listen on {host}:{port}: {why}; choose another --{name}-port"
            ) from None


def still_loading(log: Path) -> str:
    """Return what a log says of models that are being loaded, in one line."""
    text = log.read_text(encoding="utf-8", errors="replace")
    begun = dict.fromkeys(re.findall(r'"loading: ([^":]+):\d+"', text))
    done = set(re.findall(r"\"successfully loaded '([^']+)'\"", text))
    left = [name for name in begun if name not in done]
    return f"loading {', '.join(left)}" if left else "starting"


def first_error(log: Path) -> str:
    """Return what a log says first of an error, in one line."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = text.splitlines()
    for mark in ("CareError: ", "failed to load ", "error: ", "E1"):
        for line in lines:
            if (place := line.find(mark)) >= 0 and (mark != "E1" or (place == 0 and _NO_ERROR not in line)):
                # Where in the code it was is in the log.
                said = line[place:].removeprefix("CareError: ").split("\\n\\nAt:")[0]
                return f"{' '.join(said.split())} (log: {log})"
    return f"{lines[-1] if lines else 'it said nothing'} (log: {log})"
