"""Console script ``tritonserver``: finds a real server, sets up its environment and supervises it.

Arguments, signals and the exit code are the server's own. By default it listens on loopback and restricts its control
APIs. Additional arguments are ``--shared-memory``, which allows clients to register shared memory, and ``--parent=PID``,
which ends the server when the process that started this one has died.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from care_accel.errors import exit_code
from care_accel.folders import temporary_folder
from care_accel.serving.backend import RUN_FOLDER
from care_accel.serving.tritonserver.in_process import backend_arguments
from care_accel.serving.tritonserver.program import PLAIN, REPOSITORIES, find_program
from care_accel.serving.tritonserver.supervisor import supervise

_WARNING = (
    "tritonserver: this is the server of the wheel nvidia-pytriton (2.51), for development: its published "
    "vulnerabilities are fixed in NVIDIA's containers from 25.07 on. It listens on loopback unless told otherwise."
)
_SHARED_MEMORY, _PARENT = "--shared-memory", "--parent="


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server and return its exit code; 2 if there is none."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    codes: list[int] = []

    def serve() -> None:
        program = find_program(
            install_with=lambda line: print(f"tritonserver: {line}", file=sys.stderr, flush=True)
        )
        if program.bundled:
            print(_WARNING, file=sys.stderr, flush=True)
        arguments = joined([one for one in given if one != _SHARED_MEMORY])
        parent = next((one.removeprefix(_PARENT) for one in arguments if one.startswith(_PARENT)), "")
        with temporary_folder("care-run-") as folder:
            arguments = linked([one for one in arguments if not one.startswith(_PARENT)], folder)
            command = program.command(
                [*arguments, *backend_arguments(program, arguments, folder)],
                shared_memory=_SHARED_MEMORY in given,
            )
            environment = program.environ() | {RUN_FOLDER: str(folder)}
            codes.append(supervise(command, environment, parent=int(parent) if parent.isdigit() else None))

    return exit_code(serve) or codes[0]


def joined(arguments: Sequence[str]) -> list[str]:
    """Normalise ``--name value`` to ``--name=value``."""
    whole: list[str] = []
    for argument in arguments:
        if whole and whole[-1].startswith("--") and "=" not in whole[-1] and not argument.startswith("-"):
            whole[-1] = f"{whole[-1]}={argument}"
        else:
            whole.append(argument)
    return whole


def linked(arguments: Sequence[str], folder: Path) -> list[str]:
    """Replace a repository path that needs shell quoting by a symbolic link.

    The server starts each model through a shell and does not quote the path.
    """
    named = []
    for place, argument in enumerate(arguments):
        name, _, path = argument.partition("=")
        if name in REPOSITORIES and not PLAIN.fullmatch(path) and Path(path).is_dir():
            link = folder / f"repository-{place}"
            link.symlink_to(Path(path).absolute())
            argument = f"{name}={link}"
        named.append(argument)
    return named


if __name__ == "__main__":
    sys.exit(main())
