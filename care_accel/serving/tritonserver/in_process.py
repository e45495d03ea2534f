"""The backend ``care`` of the server, a part of this package: it runs a model's Python code in the server's own process.

The server's Python backend starts a process for each model. The way there and back takes longer than a small network and a scan,
so `care-accel serve` has ``search`` run by this backend. It finds the same Python library as the Python backend's processes do,
and the same packages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from care_accel.serving.backend import IN_PROCESS
from care_accel.serving.tritonserver.program import Program

_LIBRARY = Path(__file__).parents[2] / "libtriton_care.so"
_OPTION = "--backend-directory"


def why_not(program: Program) -> str | None:
    """Return why a server cannot run models in its own process; None if it can."""
    if not _LIBRARY.is_file():
        return f"this build of care_accel has no {_LIBRARY.name}"
    if program.backends is None:
        return f"the backends of {program.binary} are not in ../backends beside it"
    return None


def backend_arguments(backends: Path | None, given: Sequence[str], folder: Path) -> list[str]:
    """Return the arguments by which a server finds its own backends and this one.

    Parameters
    ----------
    backends : Path or None
        Folder of the server's backends.
    given : sequence of str
        Arguments ``--name=value`` of a user; a folder of backends among them is left as it is.
    folder : Path
        Where a folder with links is made.
    """
    if backends is None or not _LIBRARY.is_file() or any(one.partition("=")[0] == _OPTION for one in given):
        return []
    links = folder / "backends"
    (links / IN_PROCESS).mkdir(parents=True)
    (links / IN_PROCESS / _LIBRARY.name).symlink_to(_LIBRARY)
    for backend in backends.iterdir():
        if not (links / backend.name).exists():
            (links / backend.name).symlink_to(backend)
    return [f"{_OPTION}={links}"]
