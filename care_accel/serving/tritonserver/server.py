"""Starts and stops an inference server."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from care_accel.errors import CareError
from care_accel.serving.tritonserver.program import ADDRESSES, LOOPBACK, find_program

# Without proxies of the environment, which would apply to loopback too.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

_PROGRESS_EVERY_S = 10.0


class Server:
    """An inference server process; a context manager. It does not outlive the process that starts it, however that ends.

    Parameters
    ----------
    repository : str or Path
    http, grpc, metrics : int, optional
        Ports; free ones by default.
    arguments : sequence of str
        Additional arguments of the server.
    log : str or Path, optional
        Log file; a temporary file by default.
    host : str
        Address to listen on. There is no authentication.
    shared_memory : bool
        Allow clients to register shared memory.

    Attributes
    ----------
    http, grpc, metrics : str
        ``host:port`` of each endpoint.
    process : subprocess.Popen
        The script ``tritonserver``, whose child is the server (see `care_accel.serving.tritonserver.supervisor`).
    log : Path

    Raises
    ------
    CareError
        There is no server, or it could not start; the message quotes its log.
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
        self._host = resolve_ipv4(host)
        for name, port in self._ports.items():
            require_free(self._host, port, name)
            if sum(port == other for other in self._ports.values()) > 1:
                raise CareError(
                    f"{name} cannot listen on port {port}, which another endpoint uses; choose different ports"
                )
        self.http, self.grpc, self.metrics = (f"{self._host}:{port}" for port in self._ports.values())
        self._arguments, self._shared_memory = list(arguments), shared_memory
        self._discard_log: Callable[[], object] = lambda: None
        if log is None:
            folder = tempfile.mkdtemp(prefix="care-server-")
            self._discard_log = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            log = Path(folder) / "log"
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
            Called with a progress message from time to time.
        ended : threading.Event, optional
            Stops waiting when set.
        """
        command = [
            *(sys.executable, "-m", "care_accel.serving.tritonserver.launcher"),
            f"--parent={os.getpid()}",
            *(["--shared-memory"] if self._shared_memory else []),
            f"--model-repository={self.repository}",
            *(f"--{name}-port={port}" for name, port in self._ports.items()),
            *(f"--{name}-address={self._host}" for name in self._ports),
            *self._arguments,
        ]
        try:
            stream = self.log.open("wb")
        except OSError as cause:
            raise CareError(f"{self.log}: the log cannot be written: {cause.strerror}") from None
        with stream:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
        if progress:
            progress(f"starting {self.program.binary} (log: {self.log})")
        begun = reported = time.monotonic()
        end = begun + timeout
        try:
            while not self.ready() and not (ended and ended.is_set()):
                if self.process.poll() is not None:
                    raise CareError(f"the server did not start: {first_error(self.log)}")
                now = time.monotonic()
                if now > end:
                    raise CareError(f"the server was not ready after {timeout:g} s; see its log {self.log}")
                if progress and now - reported > _PROGRESS_EVERY_S:
                    reported = now
                    progress(f"{now - begun:.0f} s: {still_loading(self.log)}")
                time.sleep(0.05)
        except BaseException:
            self.keep_log()
            self.stop()
            raise
        return self

    def keep_log(self) -> None:
        """Keep a temporary log, as a message refers to it."""
        if isinstance(self._discard_log, weakref.finalize):
            self._discard_log.detach()

    def ready(self) -> bool:
        """Return whether the server and all its models are ready."""
        try:
            with _DIRECT.open(f"http://{self.http}/v2/health/ready", timeout=2) as answer:
                return answer.status == 200
        except (
            OSError,
            http.client.HTTPException,
        ):  # or another program has the port, and speaks something else
            return False

    def died(self) -> bool:
        """Return whether the server exited by itself."""
        return self.process is not None and self.process.poll() is not None

    def stop(self, timeout: float = 40.0) -> int:
        """Shut down gracefully and return the exit code."""
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

    def __enter__(self) -> Server:
        return self if self.process is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._discard_log()


def free_ports(count: int) -> list[int]:
    """Return free ports on loopback."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def resolve_ipv4(host: str) -> str:
    """Resolve a host to an IPv4 address, as not all endpoints of the server accept names.

    Raises
    ------
    CareError
        The name cannot be resolved.
    """
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    except (OSError, UnicodeError):
        raise CareError(f"--host {host}: the name has no IPv4 address") from None


def require_free(host: str, port: int, name: str) -> None:
    """Check that a port can be listened on.

    Raises
    ------
    CareError
        The port is in use, or the address does not belong to this machine.
    """
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if port == 0:  # the caller could not learn the port
                raise OverflowError
            one.bind((host, port))
        except (OSError, OverflowError) as cause:
            why = cause.strerror if isinstance(cause, OSError) else "a port is 1 to 65535"
            raise CareError(
                f"{name} cannot listen on {host}:{port}: {why}; choose another --{name}-port"
            ) from None


# Logged by every server without a GPU.
_IGNORED_ERRORS = ("CudaDriverHelper has not been initialized", "unable to create stream")


def still_loading(log: Path) -> str:
    """Summarise from a log which models are still loading."""
    text = log.read_text(encoding="utf-8", errors="replace")
    begun = dict.fromkeys(re.findall(r'"loading: ([^":]+):\d+"', text))
    done = set(re.findall(r"\"successfully loaded '([^']+)'\"", text))
    left = [name for name in begun if name not in done]
    return f"loading {', '.join(left)}" if left else "starting"


def first_error(log: Path) -> str:
    """Return the first error in a log as one line."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = [
        line for line in text.splitlines() if line.strip() and not any(one in line for one in _IGNORED_ERRORS)
    ]
    for mark in ("CareError: ", "failed to load ", "error: ", "E1"):
        for line in lines:
            if (start := line.find(mark)) >= 0 and (mark != "E1" or start == 0):
                # Without the traceback.
                message = line[start:].removeprefix("CareError: ").split("\\n\\nAt:")[0]
                return f"{' '.join(message.split())} (log: {log})"
    return f"{lines[-1] if lines else 'it is empty'} (log: {log})"
