"""A network that has embeddings of some tokens only: which row is whose, and what the others get.

The tokenizer stays whole, so that every text is split as before; only ids are exchanged for rows. A text whose
tokens were all kept has the vector that it had.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import CareError

FILE = "vocabulary.safetensors"


class Vocabulary:
    """From token ids to rows of a shortened embedding matrix.

    Parameters
    ----------
    rows : numpy.ndarray
        int64 ``[tokens of the tokenizer]``: a token's row, -1 where it was not kept.
    unknown : int
        The row that stands for every token that was not kept.

    Raises
    ------
    CareError
        Rows are not those of 0 to n - 1, each once, or ``unknown`` is none of them.
    """

    def __init__(self, rows: NDArray[np.int64], unknown: int) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)
        self.unknown = int(unknown)
        self.kept = int((self.rows >= 0).sum())
        if not np.array_equal(np.sort(self.rows[self.rows >= 0]), np.arange(self.kept)):
            raise CareError(f"{FILE}: rows are not 0 to {self.kept - 1}, each once; export the model anew")
        if not 0 <= self.unknown < self.kept:
            raise CareError(
                f"{FILE}: row {self.unknown} for unknown tokens is not there; export the model anew"
            )

    @classmethod
    def keeping(cls, kept: Sequence[int], size: int, unknown: int) -> Vocabulary:
        """Number the kept tokens in the order of their ids; ``unknown``, an id, is among them."""
        rows = np.full(size, -1, dtype=np.int64)
        ids = np.unique(np.asarray([*kept, unknown], dtype=np.int64))
        rows[ids] = np.arange(len(ids))
        return cls(rows, int(rows[unknown]))

    @property
    def ids(self) -> NDArray[np.int64]:
        """The token of each row, int64 ``[kept]``."""
        ids = np.empty(self.kept, dtype=np.int64)
        tokens = np.flatnonzero(self.rows >= 0)
        ids[self.rows[tokens]] = tokens
        return ids

    def translate(self, texts: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[int]]:
        """Exchange ids for rows.

        Returns
        -------
        rows : list of list of int
        unknown : list of int
            Tokens of each text that were not kept.
        """
        translated, unknown = [], []
        for ids in texts:
            rows = self.rows[np.asarray(ids, dtype=np.int64)]
            absent = rows < 0
            unknown.append(int(absent.sum()))
            translated.append(np.where(absent, self.unknown, rows).tolist())
        return translated, unknown

    def save(self, folder: Path) -> None:
        """Write the rows beside the weights, where the encoder's fingerprint covers them."""
        from safetensors.numpy import save_file

        save_file({"rows": self.rows, "unknown": np.array([self.unknown])}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Vocabulary | None:
        """Read what `save` wrote; None where the network has a row for every token.

        Raises
        ------
        CareError
            The file is damaged.
        """
        if not (folder / FILE).is_file():
            return None
        from safetensors.numpy import load_file

        try:
            tensors = load_file(folder / FILE)
            return cls(tensors["rows"].reshape(-1), int(tensors["unknown"][0]))
        except CareError:
            raise
        except Exception as cause:  # safetensors raises its own kinds
            raise CareError(f"{folder / FILE}: cannot be read: {cause}; export the model anew") from None
