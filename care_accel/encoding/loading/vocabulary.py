"""A pruned vocabulary: maps token ids to rows of a smaller embedding matrix.

The tokenizer is unchanged, so texts are tokenised as before; then ids are mapped to rows. A text whose tokens were all
kept has the same embedding as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import CareError

FILE = "vocabulary.safetensors"


class Vocabulary:
    """Maps token ids to rows of a pruned embedding matrix.

    Parameters
    ----------
    rows : numpy.ndarray
        int64 ``[tokenizer vocabulary size]``: the row of each token id, -1 for a pruned token.
    unknown : int
        Row of the unknown token, used for every pruned token.

    Attributes
    ----------
    kept : int
        Number of kept tokens: rows of the pruned matrix.

    Raises
    ------
    CareError
        ``rows`` is not a permutation of 0 to n - 1 over the kept tokens, or ``unknown`` is out of range.
    """

    def __init__(self, rows: NDArray[np.int64], unknown: int) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)
        self.unknown = int(unknown)
        self.kept = int((self.rows >= 0).sum())
        if not np.array_equal(np.sort(self.rows[self.rows >= 0]), np.arange(self.kept)):
            raise CareError(f"{FILE}: rows are not 0 to {self.kept - 1}, each once; export the model again")
        if not 0 <= self.unknown < self.kept:
            raise CareError(
                f"{FILE}: row {self.unknown} of the unknown token is out of range; export the model again"
            )

    @classmethod
    def from_token_ids(cls, kept: Sequence[int], size: int, unknown: int) -> Vocabulary:
        """Assign rows to the kept token ids in ascending order; ``unknown``, a token id, is always kept."""
        rows = np.full(size, -1, dtype=np.int64)
        ids = np.unique(np.asarray([*kept, unknown], dtype=np.int64))
        rows[ids] = np.arange(len(ids))
        return cls(rows, int(rows[unknown]))

    @property
    def ids(self) -> NDArray[np.int64]:
        """The token id of each row, int64 ``[kept]``."""
        ids = np.empty(self.kept, dtype=np.int64)
        tokens = np.flatnonzero(self.rows >= 0)
        ids[self.rows[tokens]] = tokens
        return ids

    def translate(self, texts: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[int]]:
        """Map token ids to rows.

        Returns
        -------
        rows : list of list of int
        unknown : list of int
            Number of pruned tokens in each text.
        """
        translated, unknown = [], []
        for ids in texts:
            rows = self.rows[np.asarray(ids, dtype=np.int64)]
            pruned = rows < 0
            unknown.append(int(pruned.sum()))
            translated.append(np.where(pruned, self.unknown, rows).tolist())
        return translated, unknown

    def save(self, folder: Path) -> None:
        """Write the mapping to the encoder's folder; the encoder's fingerprint covers it."""
        from safetensors.numpy import save_file

        save_file({"rows": self.rows, "unknown": np.array([self.unknown])}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Vocabulary | None:
        """Read a saved vocabulary; None if the network's vocabulary is not pruned.

        Raises
        ------
        CareError
            The file is corrupt.
        """
        if not (folder / FILE).is_file():
            return None
        from safetensors.numpy import load_file

        try:
            tensors = load_file(folder / FILE)
            return cls(tensors["rows"].reshape(-1), int(tensors["unknown"][0]))
        except CareError:
            raise
        except Exception as cause:  # safetensors raises its own types
            raise CareError(f"{folder / FILE}: cannot be read: {cause}; export the model again") from None
