"""Files of JSON lines that only their owner may read: they hold what patients wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from care_accel.errors import CareError


def write_private_lines(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows under a temporary name and rename it, so that nobody reads half of it, nor anybody else.

    Raises
    ------
    CareError
        The file cannot be written.
    """
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch(mode=0o600, exist_ok=False)  # no moment at which others may read it
        with temporary.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        os.replace(temporary, file)
    except OSError as cause:
        with suppress(OSError):
            temporary.unlink()
        raise CareError(f"{file}: cannot be written: {cause.strerror}") from None
