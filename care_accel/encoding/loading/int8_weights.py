"""Weights stored in int8: every matrix with one scale a row, everything else in float32.

The same quantisation as the native runtime's, so that its int8 codes are the stored ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import CareError

# Not a name that other libraries look for: they would read codes as weights.
FILE = "model.int8.safetensors"
_SCALE = ".scale"


def save_int8(weights: Mapping[str, NDArray[np.float32]], folder: Path) -> None:
    """Write weights to ``folder / FILE``; each row of a matrix as round(v * 127 / max |v|) and max |v| / 127.

    Raises
    ------
    CareError
        A weight is not finite.
    """
    from safetensors.numpy import save_file

    stored: dict[str, NDArray[np.generic]] = {}
    for name, values in weights.items():
        if not np.isfinite(values).all():
            raise CareError(f"{name}: a weight is not finite; it cannot be stored in int8")
        if values.ndim != 2:
            stored[name] = np.ascontiguousarray(values, dtype=np.float32)
            continue
        highest = np.abs(values).max(axis=1, keepdims=True).astype(np.float32)
        inverse = np.divide(127, highest, out=np.zeros_like(highest), where=highest > 0)
        stored[name] = np.rint(values * inverse).astype(np.int8)
        stored[name + _SCALE] = (highest / 127).reshape(-1)
    save_file(stored, folder / FILE)


def load_int8(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Read the weights of ``folder / FILE`` as float32.

    Raises
    ------
    CareError
        The file is corrupt, or a scale is missing.
    """
    from safetensors.numpy import load_file

    file = folder / FILE
    try:
        stored = load_file(file)
        return {
            name: values * stored[name + _SCALE][:, None] if values.dtype == np.int8 else values
            for name, values in stored.items()
            if not name.endswith(_SCALE)
        }
    except Exception as cause:  # safetensors raises its own types
        raise CareError(f"{file}: weights cannot be loaded: {' '.join(str(cause).split())[:300]}") from cause
