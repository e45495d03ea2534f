"""Installs NVIDIA's tritonserver from a package index, into a folder of its own.

The wheel nvidia-pytriton carries the server; the library uses nothing else of it. Its Python backend is built for numpy
1: with numpy 2 in the model's process, tensors come out empty and texts crash it. So numpy 1.26 is installed next to
the server, for those processes alone, and the environment is free to have numpy 2. pip does not see the folder, so the
wheel's own requirement, numpy below 2, does not constrain the environment.

The folder is in the environment, or in the user's cache where the environment cannot be written.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from care_accel.errors import CareError
from care_accel.files import cache_folder

# With their hashes: what is downloaded runs as a server.
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
COMMAND = "care-accel serve --install"
STUB = "triton_python_backend_stub"
# Nothing that is served needs them, and they may require numpy 2, as scipy 1.18 and pandas 3.1 do. They are hidden from
# the libraries in a model's process.
_HIDDEN = ("numba", "pandas", "scipy", "sklearn")
# Run by site.addsitedir in a model's process: puts this folder first on the path.
_PATH_FILE = f"import sys; sys.path.insert(0, sitedir); sys.modules.update(dict.fromkeys({_HIDDEN}))\n"
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
# The last version that numpy 1 supports.
_LAST_PYTHON = (3, 12)


def installed() -> Path | None:
    """Return the folder of the installed server, None if there is none."""
    return next((place for place in _places() if place.is_dir()), None)


def server_home(place: Path) -> Path:
    """Return where the server lies within the folder that it is installed in."""
    return place / "pytriton" / "tritonserver"


def install(say: Callable[[str], None]) -> Path:
    """Install the server unless it is there, and return its folder.

    It is installed under a temporary name and renamed, so that the folder is complete or missing, and two processes may
    do it at the same time.

    Parameters
    ----------
    say : callable
        Called with a progress message before a download.

    Raises
    ------
    CareError
        There is none for this Python, nothing can be written, or pip fails.
    """
    if place := installed():
        return place
    require_python()
    for place in _places():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = tempfile.TemporaryDirectory(dir=place.parent, prefix=".installing-")
        except OSError:
            continue
        with temporary as folder:
            say(f"installing {' and '.join(map(' '.join, _packages()))} into {place}")
            built = Path(folder) / "built"
            _pip_install(built)
            _add_stub(server_home(built))
            (built / "first.pth").write_text(_PATH_FILE, encoding="utf-8")
            try:
                os.rename(built, place)
            except OSError as cause:
                if not place.is_dir():  # else another process was faster
                    raise CareError(f"{place}: cannot be written: {cause.strerror}") from None
        return place
    raise CareError(
        f"the server cannot be installed: neither {' nor '.join(str(place.parent) for place in _places())} can be "
        "written; set XDG_CACHE_HOME to a writable folder"
    )


def require_python() -> None:
    """Refuse a Python version that the server's numpy does not support.

    Raises
    ------
    CareError
        The message names the supported versions.
    """
    if sys.version_info[:2] > _LAST_PYTHON:
        raise CareError(
            f"no tritonserver for Python {_VERSION}: the wheel's needs numpy 1, which supports Python up to 3.12; use Python 3.11 "
            "or 3.12, or one of NVIDIA's containers, whose tritonserver is on PATH"
        )


def _places() -> Iterator[Path]:
    """Yield where the server is looked for, and installed if it can be: the environment, then the user's cache."""
    name = "-".join("-".join(package) for package in _packages()) + f"-python{_VERSION}"
    yield Path(sysconfig.get_path("data")) / "share" / "care-accel" / name
    with suppress(RuntimeError):  # no home folder
        yield cache_folder() / name


def _packages() -> list[tuple[str, str]]:
    """Return name and version of the pinned packages."""
    return re.findall(r"^([\w-]+)==(\S+)", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)


def _pip_install(folder: Path) -> None:
    if find_spec("pip") is None:
        raise CareError(
            f"the server is installed by pip, which is missing from this environment; run {sys.executable} -m ensurepip"
        )
    shown = sys.stderr.isatty()
    command = [
        *(sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--retries=2"),
        *("--no-deps", "--only-binary=:all:", "--require-hashes", f"--requirement={REQUIREMENTS}"),
        f"--target={folder}",
        *([] if shown else ["--quiet"]),
    ]
    # The user's constraints and install options are meant for the environment.
    environment = os.environ | {"PIP_CONSTRAINT": "", "PIP_USER": "0", "PYTHONUTF8": "1"}
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if shown else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        why = next((line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")), "")
        raise CareError(
            f"the server could not be installed; pip says: {why or ' '.join(lines[-1:])}; give pip a package index "
            f"(PIP_INDEX_URL) or a folder of wheels (PIP_FIND_LINKS), then run {COMMAND}"
        )


def _add_stub(home: Path) -> None:
    """Copy the stub of this Python version to the Python backend; the wheel has one per version."""
    stub = home / "python_backend_stubs" / _VERSION / STUB
    if not stub.is_file():
        raise CareError(
            f"the wheel's server has no stub for Python {_VERSION}; use one of NVIDIA's containers"
        )
    shutil.copy2(stub, home / "backends" / "python" / STUB)
