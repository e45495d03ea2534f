"""Finds a real ``tritonserver``, arranges what it needs, starts it and ends it.

One on PATH is preferred: that of NVIDIA's containers. Otherwise it is the one that the wheel nvidia-pytriton carries
(extra ``server``): release 2.51, whose published vulnerabilities NVIDIA fixed in 25.07. It is for development.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import site
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from care_accel.errors import CareError

SITE = "CARE_ACCEL_SITE"
LOOPBACK = "127.0.0.1"
_ADDRESSES = ("http", "grpc", "metrics")
# Of the server's APIs those that change it, or read its memory. Names differ between its two front ends.
_RESTRICTED = {
    "http": ("model-repository", "shared-memory", "trace", "logging"),
    "grpc": ("model-repository", "shared-memory", "trace", "logging"),
}
_CACHE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Program:
    """A server that was found.

    Attributes
    ----------
    binary : Path
    arguments : tuple of str
        Where its backends and caches are, if it does not know by itself.
    environment : dict of str to str
        Added to this process's own.
    bundled : bool
        Whether it is the wheel's, which is for development.
    """

    binary: Path
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    bundled: bool = False

    def command(self, arguments: Sequence[str], *, shared_memory: bool = False) -> list[str]:
        """Return the command line: what is given, and what makes the server safe unless that says otherwise."""
        return [
            str(self.binary),
            *arguments,
            *_unless_given(self.arguments, arguments),
            *_unless_given(safe_arguments(shared_memory=shared_memory), arguments),
        ]

    def environ(self) -> dict[str, str]:
        """Return the environment that the server and its stubs run in."""
        return os.environ | dict(self.environment)


def find_program() -> Program:
    """Find a server.

    Raises
    ------
    CareError
        There is none, or the wheel's lacks the system's Python library.
    """
    packages = {SITE: os.pathsep.join([*site.getsitepackages(), *_checkout()])}
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        candidate = Path(folder) / "tritonserver"
        if candidate.is_file() and os.access(candidate, os.X_OK) and not _is_script(candidate):
            return Program(candidate, environment=packages)
    spec = find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise CareError(
            "no tritonserver: none is on PATH, and nvidia-pytriton, whose wheel carries one, is not installed; "
            "pip install 'care-accel[server]', or use one of NVIDIA's containers"
        )
    home = Path(spec.submodule_search_locations[0]) / "tritonserver"
    _require_libpython()
    libraries = [str(home.parents[1] / "nvidia_pytriton.libs"), os.environ.get("LD_LIBRARY_PATH", "")]
    return Program(
        home / "bin" / "tritonserver",
        (
            f"--backend-directory={_backends(home)}",
            f"--cache-directory={home / 'caches'}",
        ),
        packages | {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries))},
        bundled=True,
    )


def safe_arguments(*, shared_memory: bool = False) -> list[str]:
    """Return the arguments that make a server listen on loopback and keep to itself what changes it.

    Loading models, shared memory, traces and log settings need a header with a key that nobody is told.
    """
    key = secrets.token_hex(16)
    arguments = [f"--{name}-address={LOOPBACK}" for name in _ADDRESSES]
    for front, option in (("http", "--http-restricted-api"), ("grpc", "--grpc-restricted-protocol")):
        names = [name for name in _RESTRICTED[front] if not (shared_memory and name == "shared-memory")]
        arguments.append(f"{option}={','.join(names)}:care-key={key}")
    # A repository's response cache is used only if the server has one.
    return [*arguments, f"--cache-config=local,size={_CACHE_BYTES}"]


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
        ports = dict(zip(_ADDRESSES, (http, grpc, metrics), strict=True))
        free = iter(free_ports(sum(port is None for port in ports.values())))
        self._ports = {name: next(free) if port is None else port for name, port in ports.items()}
        for name, port in self._ports.items():
            require_free(host, port, name)
        self._host = host
        self.http, self.grpc, self.metrics = (f"{host}:{port}" for port in self._ports.values())
        self._arguments, self._shared_memory = list(arguments), shared_memory
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if log is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="care-server-")
            log = Path(self._temporary.name) / "log"
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
        command = self.program.command(
            [
                f"--model-repository={self.repository}",
                *(f"--{name}-port={port}" for name, port in self._ports.items()),
                *(f"--{name}-address={self._host}" for name in self._ports),
                *self._arguments,
            ],
            shared_memory=self._shared_memory,
        )
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                command, env=self.program.environ(), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            )
        if progress:
            progress(f"starting {self.program.binary} (log: {self.log})")
        end = time.monotonic() + timeout
        try:
            while not self.ready() and not (ended and ended.is_set()):
                if self.process.poll() is not None:
                    raise CareError(f"the server did not start: {first_error(self.log)}")
                if time.monotonic() > end:
                    raise CareError(f"the server was not ready after {timeout:g} s; its log is {self.log}")
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

    def __enter__(self) -> Server:
        return self if self.process is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._temporary is not None:
            with suppress(OSError):
                self._temporary.cleanup()


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


def first_error(log: Path) -> str:
    """Return what a log says first of an error, in one line."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = text.splitlines()
    for mark in ("CareError: ", "failed to load ", "error: ", "E1"):
        for line in lines:
            if (place := line.find(mark)) >= 0 and (mark != "E1" or place == 0):
                said = line[place:].removeprefix("CareError: ")
                return f"{' '.join(said.split())} (log: {log})"
    return f"{lines[-1] if lines else 'it said nothing'} (log: {log})"


def _unless_given(defaults: Sequence[str], given: Sequence[str]) -> list[str]:
    names = {argument.split("=", 1)[0] for argument in given}
    return [argument for argument in defaults if argument.split("=", 1)[0] not in names]


def _is_script(file: Path) -> bool:
    """Tell whether a file is a script, as this package's own ``tritonserver`` is, and no server."""
    with file.open("rb") as stream:
        return stream.read(2) == b"#!"


def _checkout() -> list[str]:
    """Return the folder that holds this package if it is no site-packages: a source tree on PYTHONPATH."""
    parent = str(Path(__file__).parents[2])
    return [] if parent in site.getsitepackages() else [parent]


def _backends(home: Path) -> Path:
    """Return a folder of backends with the stub of this Python beside the Python backend.

    The wheel keeps them apart, and may lie where nobody may write.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise CareError(
            f"the wheel's server has no stub for Python {version}; use one of NVIDIA's containers"
        )
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = f"backends-{version}-{abs(hash_of(str(home))):016x}"
    place = base / "care_accel" / name
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=place.parent) as temporary:
            built = Path(temporary) / "backends"
            shutil.copytree(home / "backends", built)
            shutil.copy2(stub, built / "python" / stub.name)
            with suppress(OSError):  # another process was faster
                os.rename(built, place)
    return place


def hash_of(text: str) -> int:
    """Return a number that stands for a text, the same in every process."""
    import hashlib

    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)


def _require_libpython() -> None:
    """The stub is an own program that loads Python as a library of the system's."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    folder: Any = sysconfig.get_config_var("LIBDIR")
    for place in (name, f"{folder}/{name}"):
        with suppress(OSError):
            ctypes.CDLL(place)
            return
    package = name.split(".so")[0]
    raise CareError(f"the server's Python backend needs {name}: install the system package {package}")
