"""The terms of a lexical index: characters and character pairs, which need no Chinese word segmentation."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SPACE = re.compile(r"\s+")
# A code point has 21 bits.
_BITS = np.uint64(21)


def folded(text: str) -> str:
    """Return a text as it is indexed: NFKC, lower case, without spaces."""
    return _SPACE.sub("", unicodedata.normalize("NFKC", text).lower())


def character_grams(text: str) -> list[str]:
    """Return the characters and character bigrams of a text, normalised to NFKC and lower case."""
    characters = folded(text)
    return [*characters, *(characters[i : i + 2] for i in range(len(characters) - 1))]


def packed_grams(text: str) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the different grams of `character_grams` as numbers, ascending, and how often each occurs."""
    codes = code_points([folded(text)])
    return np.unique(
        np.concatenate([codes.astype(np.uint64), pairs(codes[:-1], codes[1:])]), return_counts=True
    )


def code_points(texts: Sequence[str]) -> NDArray[np.uint32]:
    """Return the code points of texts, one after the other; lone surrogates are kept."""
    return np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<u4")


def pairs(first: NDArray[np.uint32], second: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Return pairs of characters as numbers: above those of all single characters, which are their code points."""
    return (first.astype(np.uint64) + np.uint64(1)) << _BITS | second
