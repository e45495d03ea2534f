"""Texts that are there twice: the same but for form, or nearly the same."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from care_accel.curation.steps import Progress, silent
from care_accel.errors import CareError

PERMUTATIONS = 128
CHARACTERS = 3
# The share of pairs exactly at the threshold that may be overlooked; those above it are overlooked more rarely.
_MOST_MISSED = 0.005
# What a text is compared with, where thousands share a template: the likeliest. Work stays linear in the texts.
_MOST_COMPARED = 100
_MOST_IN_BUCKET = 200
_CHUNK = 4096
_SPACE = re.compile(r"\s+")
# They tell one finding from another ("(+)" and "(-)", "5%" and "5").
_MEANING = "%-‰"


class Near(NamedTuple):
    """For each text the earlier one that it nearly repeats.

    Attributes
    ----------
    of : numpy.ndarray
        int64 ``[n]``: the position of that text; -1 where there is none.
    similarity : numpy.ndarray
        float64 ``[n]``: their Jaccard similarity; 0 where there is none.
    """

    of: NDArray[np.int64]
    similarity: NDArray[np.float64]


def normalise(text: str) -> str:
    """Fold a text to what its form cannot change: NFKC, lower case, no white space, no punctuation.

    Punctuation between two digits stays (3.5 is not 35), and so do signs and per cent.
    """
    folded = _SPACE.sub("", unicodedata.normalize("NFKC", text)).lower()
    return _punctuation().sub("", folded)


def digest(text: str) -> bytes:
    """Return 16 bytes that two texts share if they are the same but for form; see `normalise`."""
    return blake2b(normalise(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def find_exact_duplicates(texts: Sequence[str]) -> NDArray[np.int64]:
    """Find texts that an earlier one repeats but for form; see `normalise`.

    Returns
    -------
    numpy.ndarray
        int64 ``[n]``: the position of the first such text; -1 for texts that are first themselves.
    """
    first: dict[bytes, int] = {}
    repeated = np.full(len(texts), -1, dtype=np.int64)
    for position, text in enumerate(texts):
        if (earlier := first.setdefault(digest(text), position)) != position:
            repeated[position] = earlier
    return repeated


def find_near_duplicates(
    texts: Sequence[str], threshold: float = 0.8, *, progress: Progress = silent
) -> Near:
    """Find texts that nearly repeat an earlier one that stays.

    Going through the texts in order, one stays if no text that stayed is as similar as the threshold. Similarity
    is Jaccard's, of the sets of three neighbouring characters after `normalise`; it is computed exactly for
    candidates, which MinHash (Broder, 1997; datasketch) finds.

    Parameters
    ----------
    texts : sequence of str
    threshold : float
        Above 0, at most 1.
    progress : callable, optional

    Returns
    -------
    Near
        ``of`` is always a text that stays.

    Raises
    ------
    CareError
        Another threshold, or datasketch is not installed.

    Notes
    -----
    Of pairs at the threshold less than 0.5 % are overlooked (with 128 permutations, at 0.8: 0.2 %). Memory is
    about 300 bytes a text above the texts. Where more than 100 candidates share a template, the 100 likeliest
    are compared.
    """
    return _find(texts, None, threshold, progress)


def find_near(
    texts: Sequence[str], references: Sequence[str], threshold: float = 0.8, *, progress: Progress = silent
) -> Near:
    """Find for each text the reference that is most similar to it, if one is as similar as the threshold.

    See `find_near_duplicates`; ``of`` holds positions in ``references``.
    """
    near = _find([*references, *texts], len(references), threshold, progress)
    return Near(near.of[len(references) :], near.similarity[len(references) :])


def similarity(one: str, other: str) -> float:
    """Return the Jaccard similarity of two texts' neighbouring characters, 0 to 1."""
    return _jaccard(_grams(normalise(one)), _grams(normalise(other)))


def _find(texts: Sequence[str], references: int | None, threshold: float, progress: Progress) -> Near:
    """Compare each text with earlier ones that stay, or with the first ``references`` texts only."""
    if not 0 < threshold <= 1:
        raise CareError(f"the similarity of near duplicates is {threshold}; it must be above 0 and at most 1")
    near = Near(np.full(len(texts), -1, dtype=np.int64), np.zeros(len(texts)))
    # Buckets are numbered by sorting, not kept as one dictionary entry a text and band: that took 7 kB a text.
    buckets = _shared_buckets(_band_keys(texts, threshold, progress))
    members: dict[int, list[int]] = {}
    with progress("near duplicates: compare", len(texts)) as done:
        for position in range(len(texts)):
            own = buckets[position][buckets[position] >= 0].tolist()
            if own and position >= (references or 0):
                near.of[position], near.similarity[position] = _best(texts, position, own, members, threshold)
            if near.of[position] < 0 if references is None else position < references:
                for bucket in own:
                    members.setdefault(bucket, []).append(position)
            if position % _CHUNK == _CHUNK - 1:
                done(_CHUNK)
        done(len(texts) % _CHUNK)
    return near


def _best(
    texts: Sequence[str], position: int, own: list[int], members: dict[int, list[int]], threshold: float
) -> tuple[int, float]:
    """Return the most similar text among those in the same buckets; the earliest of equals, -1 if none is near."""
    shared = Counter(other for bucket in own for other in members.get(bucket, [])[:_MOST_IN_BUCKET])
    best, highest = -1, 0.0
    if shared:
        grams = _grams(normalise(texts[position]))
        likeliest = sorted(shared, key=lambda other: (-shared[other], other))[:_MOST_COMPARED]
        for other in sorted(likeliest):
            found = _jaccard(grams, _grams(normalise(texts[other])))
            if found >= threshold and found > highest:
                best, highest = other, found
    return best, highest


def _band_keys(texts: Sequence[str], threshold: float, progress: Progress) -> NDArray[np.uint64]:
    """Return a number for each band of each text's MinHash, ``[n, bands]``; equal bands have equal numbers."""
    rows = _rows(threshold)
    bands = PERMUTATIONS // rows
    keys = np.empty((len(texts), bands), dtype=np.uint64)
    blank = _library()(num_perm=PERMUTATIONS, hashfunc=_itself, scheme="affine32")
    sketches = np.empty((_CHUNK, PERMUTATIONS), dtype=np.uint64)
    with progress("near duplicates: hash", len(texts)) as done:
        for start in range(0, len(texts), _CHUNK):
            part = texts[start : start + _CHUNK]
            for row, text in enumerate(part):
                sketch = blank.copy()
                sketch.update_batch(_hashes(normalise(text)))
                sketches[row] = sketch.hashvalues
            banded = sketches[: len(part), : bands * rows].reshape(len(part), bands, rows)
            total = np.zeros((len(part), bands), dtype=np.uint64)
            for column in range(rows):
                total = (total ^ banded[:, :, column]) * np.uint64(0x9E3779B97F4A7C15)
                total ^= total >> np.uint64(29)
            keys[start : start + len(part)] = total
            done(len(part))
    return keys


def _shared_buckets(keys: NDArray[np.uint64]) -> NDArray[np.int32]:
    """Number the buckets that hold more than one text, over all bands; -1 for a text alone in its bucket."""
    buckets = np.full(keys.shape, -1, dtype=np.int32)
    used = 0
    for band in range(keys.shape[1]):
        _, inverse, counts = np.unique(keys[:, band], return_inverse=True, return_counts=True)
        shared = counts > 1
        numbers = np.where(shared, used + np.cumsum(shared) - 1, -1)
        buckets[:, band] = numbers[inverse]
        used += int(shared.sum())
    return buckets


def _rows(threshold: float) -> int:
    """Return how many hash values a band has: as many as still find pairs at the threshold."""
    fitting = [
        rows
        for rows in range(1, PERMUTATIONS + 1)
        if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= _MOST_MISSED
    ]
    return max(fitting, default=1)


def _grams(folded: str) -> set[str]:
    return {folded[i : i + CHARACTERS] for i in range(max(1, len(folded) - CHARACTERS + 1))}


def _jaccard(one: set[str], other: set[str]) -> float:
    both = len(one & other)
    return both / (len(one) + len(other) - both)


def _hashes(folded: str) -> NDArray[np.uint32]:
    """Return a number for each of a text's `_grams`."""
    points = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    if len(points) < CHARACTERS:  # a short text is one gram; no character is numbered 0
        points = np.concatenate([points, np.zeros(CHARACTERS - len(points), dtype=np.uint64)])
    total = np.zeros(len(points) - CHARACTERS + 1, dtype=np.uint64)
    for offset in range(CHARACTERS):
        total = total * np.uint64(0x100000001B3) + points[offset : offset + len(total)]
    return np.unique((total * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)).astype(np.uint32)


def _itself(value: Any) -> Any:
    return value


@cache
def _punctuation() -> re.Pattern[str]:
    """Return what matches punctuation and invisible characters that do not stand between two digits."""
    dropped = [
        character
        for character in map(chr, range(0x10000))
        if unicodedata.category(character)[0] in "PZC"
        and character not in _MEANING
        # Half of a surrogate pair is a broken text's own, and private characters are some font's words.
        and unicodedata.category(character) not in ("Cs", "Co", "Cn")
    ]
    marks = "".join(re.escape(character) for character in dropped)
    return re.compile(rf"(?<!\d)[{marks}]|[{marks}](?!\d)")


def _library() -> Any:
    try:
        from datasketch import MinHash
    except ImportError:
        raise CareError(
            "near duplicates need the package datasketch: pip install 'care-accel[curate]'"
        ) from None
    return MinHash
