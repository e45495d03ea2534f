"""The backend ``care`` of the server, a part of this package: it runs a model's Python code in the server's own process.

The server's Python backend starts a process for each model. The way there and back takes longer than a small network and a scan,
so `care-accel serve` has ``search`` run by this backend. It finds the same Python library as the Python backend's processes do,
and the same packages.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from care_accel.serving.backend import IN_PROCESS
from care_accel.serving.tritonserver.program import PLAIN, REPOSITORIES, Program

_LIBRARY = Path(__file__).parents[2] / "libtriton_care.so"
_OPTION = "--backend-directory"


def why_not(program: Program) -> str | None:
    """Return why a server cannot run models in its own process; None if it can."""
    if not _LIBRARY.is_file():
        return f"this build of care_accel has no {_LIBRARY.name}"
    if program.backends is None:
        return f"the backends of {program.binary} are not in ../backends beside it"
    if not PLAIN.fullmatch(tempfile.gettempdir()):
        return f"the path of the temporary folder, {tempfile.gettempdir()}, has characters that a shell interprets"
    return None


def backend_arguments(program: Program, given: Sequence[str], folder: Path) -> list[str]:
    """Return the arguments by which a server finds its own backends and this one; none if no repository asks for this one.

    Parameters
    ----------
    program : Program
    given : sequence of str
        Arguments ``--name=value`` of a user; a folder of backends among them is left as it is.
    folder : Path
        A temporary folder, where a folder with links is made.
    """
    values = [argument.partition("=")[::2] for argument in given]
    repositories = [Path(value) for name, value in values if name in REPOSITORIES]
    if why_not(program) or not any(map(asks, repositories)) or any(name == _OPTION for name, _ in values):
        return []
    assert program.backends is not None
    links = folder / "backends"
    (links / IN_PROCESS).mkdir(parents=True)
    (links / IN_PROCESS / _LIBRARY.name).symlink_to(_LIBRARY)
    for backend in program.backends.iterdir():
        if not (links / backend.name).exists():
            (links / backend.name).symlink_to(backend)
    return [f"{_OPTION}={links}"]


def asks(repository: Path) -> bool:
    """Return whether a model of a repository is to run in the server's process."""
    wanted = f'backend: "{IN_PROCESS}"'
    return any(
        wanted in file.read_text(encoding="utf-8", errors="replace")
        for file in repository.glob("*/config.pbtxt")
    )
