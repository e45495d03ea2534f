"""Containment search: which of many texts are substrings of a longer one."""

from __future__ import annotations

from collections.abc import Sequence

from care_accel.curation.texts.duplicates import normalise
from care_accel.errors import require_count


class ContainmentIndex:
    """Index of texts for substring search, after `duplicates.normalise`.

    Texts are hashed by their first ``min_characters`` characters and by length. A search scans a longer text once from
    left to right; where a prefix matches, it looks up one substring per length. Its time is proportional to the
    characters scanned and nearly independent of the number of indexed texts, even if thousands share a prefix.

    Parameters
    ----------
    texts : sequence of str
    min_characters : int
        Minimum length of an indexed text, once normalised.

    Raises
    ------
    CareError
        ``min_characters`` is below 1.
    """

    def __init__(self, texts: Sequence[str], min_characters: int) -> None:
        require_count("min_characters", min_characters)
        self._min_characters = min_characters
        # By prefix and length, the positions of each text.
        self._parts: dict[str, dict[int, dict[str, list[int]]]] = {}
        for number, text in enumerate(texts):
            part = normalise(text)
            if len(part) >= min_characters:
                alike = self._parts.setdefault(part[:min_characters], {}).setdefault(len(part), {})
                alike.setdefault(part, []).append(number)

    def find_in(self, text: str) -> dict[int, float]:
        """Find the indexed texts that a longer text contains.

        Returns
        -------
        dict of int to float
            By position, the share of the longer text that it covers, below 1; the longest first, ties by order of
            occurrence.
        """
        whole = normalise(text)
        found: dict[int, float] = {}
        for start in range(len(whole) - self._min_characters + 1):
            for length, parts in self._parts.get(whole[start : start + self._min_characters], {}).items():
                if length < len(whole):
                    numbers = parts.get(whole[start : start + length], ())
                    found.update(dict.fromkeys(numbers, length / len(whole)))
        return dict(sorted(found.items(), key=lambda one: -one[1]))
