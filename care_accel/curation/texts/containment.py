"""Which of many texts are a part of another one."""

from __future__ import annotations

from collections.abc import Sequence

from care_accel.curation.texts.duplicates import normalise
from care_accel.errors import require_count


class Parts:
    """Texts to be looked for inside others, the same but for form; see `duplicates.normalise`.

    Each is known by its first ``shortest`` characters. A text is read once from left to right, and only where such
    a beginning stands are the texts looked up that begin so, once for each of their lengths: work grows with the
    characters that are read, and hardly with how many texts are looked for, even if thousands begin alike.

    Parameters
    ----------
    texts : sequence of str
    shortest : int
        Characters that a text must have, once normalised, to be looked for.

    Raises
    ------
    CareError
        ``shortest`` is below 1.
    """

    def __init__(self, texts: Sequence[str], shortest: int) -> None:
        require_count("shortest", shortest)
        self._shortest = shortest
        # By beginning and length, the numbers of each text.
        self._parts: dict[str, dict[int, dict[str, list[int]]]] = {}
        for number, text in enumerate(texts):
            part = normalise(text)
            if len(part) >= shortest:
                alike = self._parts.setdefault(part[:shortest], {}).setdefault(len(part), {})
                alike.setdefault(part, []).append(number)

    def within(self, text: str) -> dict[int, float]:
        """Find the texts that are a part of a longer one.

        Returns
        -------
        dict of int to float
            By the number of each, the share of the longer text that it is, below 1; the longest first, of equally
            long ones that which stands first.
        """
        whole = normalise(text)
        found: dict[int, float] = {}
        for start in range(len(whole) - self._shortest + 1):
            for length, parts in self._parts.get(whole[start : start + self._shortest], {}).items():
                if length < len(whole):
                    numbers = parts.get(whole[start : start + length], ())
                    found.update(dict.fromkeys(numbers, length / len(whole)))
        return dict(sorted(found.items(), key=lambda one: -one[1]))
