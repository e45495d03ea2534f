"""The console script ``tritonserver``: a real server with everything where it looks for it.

Arguments, signals and the exit code are the server's own: this process becomes it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from care_accel.errors import exit_code
from care_accel.serving.server import find_program

_WARNING = (
    "tritonserver: this is the server of the wheel nvidia-pytriton (2.51), for development: its published "
    "vulnerabilities are fixed in NVIDIA's containers from 25.07 on. It listens on loopback unless told otherwise."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Become the server; return only if there is none."""
    given = list(sys.argv[1:] if arguments is None else arguments)

    def become() -> None:
        program = find_program()
        if program.bundled:
            print(_WARNING, file=sys.stderr, flush=True)
        command = program.command(_joined(given))
        os.execve(command[0], command, program.environ())

    return exit_code(become)


def _joined(arguments: Sequence[str]) -> list[str]:
    """Write ``--name value`` as ``--name=value``, so that what is given is recognised."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and not argument.startswith("-"):
            joined[-1] = f"{joined[-1]}={argument}"
        else:
            joined.append(argument)
    return joined


if __name__ == "__main__":
    sys.exit(main())
