"""Deduplication: exact duplicates after normalisation, and near duplicates by MinHash LSH."""

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

from care_accel.curation.steps import Progress, no_progress
from care_accel.errors import CareError

PERMUTATIONS = 128
NGRAM = 3  # characters
# Maximum miss rate of LSH for pairs exactly at the threshold; above the threshold it is lower.
_MAX_MISS_RATE = 0.005
# Candidates compared per text, the likeliest first: keeps the work linear where thousands share a template.
_MAX_COMPARISONS = 100
_MAX_BUCKET_SIZE = 200
_CHUNK = 4096
_SPACE = re.compile(r"\s+")
# Punctuation that changes the meaning of a finding ("(+)" and "(-)", "5%" and "5").
_MEANINGFUL = "%-‰"


class NearDuplicates(NamedTuple):
    """For each text, the earlier text that it is a near duplicate of.

    Attributes
    ----------
    of : numpy.ndarray
        int64 ``[n]``: position of that text; -1 for none.
    similarity : numpy.ndarray
        float64 ``[n]``: Jaccard similarity; 0 for none.
    """

    of: NDArray[np.int64]
    similarity: NDArray[np.float64]


def normalise(text: str) -> str:
    """Normalise a text for comparison: NFKC, lower case, no white space, no punctuation.

    Punctuation between two digits is kept (3.5 is not 35), and so are +, -, % and ‰.
    """
    folded = _SPACE.sub("", unicodedata.normalize("NFKC", text)).lower()
    return _punctuation().sub("", folded)


def digest(text: str) -> bytes:
    """Return a 16-byte hash of a text after `normalise`."""
    return blake2b(normalise(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def find_exact_duplicates(texts: Sequence[str]) -> NDArray[np.int64]:
    """Find texts that equal an earlier one after `normalise`.

    Returns
    -------
    numpy.ndarray
        int64 ``[n]``: position of the first equal text; -1 for first occurrences.
    """
    first: dict[bytes, int] = {}
    repeated = np.full(len(texts), -1, dtype=np.int64)
    for position, text in enumerate(texts):
        if (earlier := first.setdefault(digest(text), position)) != position:
            repeated[position] = earlier
    return repeated


def find_near_duplicates(
    texts: Sequence[str], threshold: float = 0.8, *, progress: Progress = no_progress
) -> NearDuplicates:
    """Find near duplicates of earlier texts.

    Greedy in order: a text is kept if no kept text is at least as similar as the threshold. Similarity is the Jaccard
    similarity of the sets of character 3-grams after `normalise`, computed exactly for candidates from MinHash LSH
    (Broder, 1997; datasketch).

    Parameters
    ----------
    texts : sequence of str
    threshold : float
        Above 0, at most 1.
    progress : callable, optional

    Returns
    -------
    NearDuplicates
        ``of`` is always a kept text.

    Raises
    ------
    CareError
        The threshold is out of range, or datasketch is not installed.

    Notes
    -----
    Of pairs at the threshold less than 0.5 % are missed (with 128 permutations, at 0.8: 0.2 %). Memory is about
    300 bytes per text beyond the texts. If a text has more than 100 candidates, the 100 likeliest are compared.
    """
    return _find(texts, None, threshold, progress)


def find_near_references(
    texts: Sequence[str],
    references: Sequence[str],
    threshold: float = 0.8,
    *,
    progress: Progress = no_progress,
) -> NearDuplicates:
    """Find, for each text, the most similar reference at or above the threshold.

    See `find_near_duplicates`; ``of`` holds positions in ``references``.
    """
    near = _find([*references, *texts], len(references), threshold, progress)
    return NearDuplicates(near.of[len(references) :], near.similarity[len(references) :])


def similarity(one: str, other: str) -> float:
    """Return the Jaccard similarity of two texts' character 3-grams, 0 to 1."""
    return _jaccard(_ngrams(normalise(one)), _ngrams(normalise(other)))


def _find(
    texts: Sequence[str], references: int | None, threshold: float, progress: Progress
) -> NearDuplicates:
    """Compare each text with earlier kept ones, or with the first ``references`` texts only."""
    if not 0 < threshold <= 1:
        raise CareError(f"the near-duplicate threshold is {threshold}; it must be above 0 and at most 1")
    near = NearDuplicates(np.full(len(texts), -1, dtype=np.int64), np.zeros(len(texts)))
    # Buckets are numbered by sorting: a dictionary entry per text and band took 7 kB per text.
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
    """Return the most similar text in the same buckets; ties by order, -1 if none reaches the threshold."""
    shared = Counter(other for bucket in own for other in members.get(bucket, [])[:_MAX_BUCKET_SIZE])
    best, highest = -1, 0.0
    if shared:
        grams = _ngrams(normalise(texts[position]))
        likeliest = sorted(shared, key=lambda other: (-shared[other], other))[:_MAX_COMPARISONS]
        for other in sorted(likeliest):
            found = _jaccard(grams, _ngrams(normalise(texts[other])))
            if found >= threshold and found > highest:
                best, highest = other, found
    return best, highest


def _band_keys(texts: Sequence[str], threshold: float, progress: Progress) -> NDArray[np.uint64]:
    """Return a hash of each band of each text's MinHash, ``[n, bands]``."""
    rows = _rows_per_band(threshold)
    bands = PERMUTATIONS // rows
    keys = np.empty((len(texts), bands), dtype=np.uint64)
    blank = _minhash_class()(num_perm=PERMUTATIONS, hashfunc=_identity, scheme="affine32")
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
    """Number the buckets with more than one text, over all bands; -1 for a single text."""
    buckets = np.full(keys.shape, -1, dtype=np.int32)
    used = 0
    for band in range(keys.shape[1]):
        _, inverse, counts = np.unique(keys[:, band], return_inverse=True, return_counts=True)
        shared = counts > 1
        numbers = np.where(shared, used + np.cumsum(shared) - 1, -1)
        buckets[:, band] = numbers[inverse]
        used += int(shared.sum())
    return buckets


def _rows_per_band(threshold: float) -> int:
    """Return the rows per LSH band: the most that keep the miss rate at the threshold within its maximum."""
    fitting = [
        rows
        for rows in range(1, PERMUTATIONS + 1)
        if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= _MAX_MISS_RATE
    ]
    return max(fitting, default=1)


def _ngrams(folded: str) -> set[str]:
    return {folded[i : i + NGRAM] for i in range(max(1, len(folded) - NGRAM + 1))}


def _jaccard(one: set[str], other: set[str]) -> float:
    both = len(one & other)
    return both / (len(one) + len(other) - both)


def _hashes(folded: str) -> NDArray[np.uint32]:
    """Return a hash of each of a text's `_ngrams`."""
    points = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    if len(points) < NGRAM:  # a short text is one n-gram, padded with 0, which is no character
        points = np.concatenate([points, np.zeros(NGRAM - len(points), dtype=np.uint64)])
    total = np.zeros(len(points) - NGRAM + 1, dtype=np.uint64)
    for offset in range(NGRAM):
        total = total * np.uint64(0x100000001B3) + points[offset : offset + len(total)]
    return np.unique((total * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)).astype(np.uint32)


def _identity(value: Any) -> Any:
    return value


@cache
def _punctuation() -> re.Pattern[str]:
    """Return a pattern of punctuation and invisible characters that are not between two digits."""
    dropped = [
        character
        for character in map(chr, range(0x10000))
        if unicodedata.category(character)[0] in "PZC"
        and character not in _MEANINGFUL
        # Lone surrogates, private-use and unassigned characters may carry content.
        and unicodedata.category(character) not in ("Cs", "Co", "Cn")
    ]
    marks = "".join(re.escape(character) for character in dropped)
    return re.compile(rf"(?<!\d)[{marks}]|[{marks}](?!\d)")


def _minhash_class() -> Any:
    try:
        from datasketch import MinHash
    except ImportError:
        raise CareError(
            "near duplicates need the package datasketch: pip install 'care-accel[curate]'"
        ) from None
    return MinHash
