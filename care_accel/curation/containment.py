"""Which of many texts are a part of another one."""

from __future__ import annotations

from collections.abc import Sequence

from care_accel.curation.duplicates import normalise
from care_accel.errors import require_count


class Parts:
    """Texts to be looked for inside others, the same but for form; see `duplicates.normalise`.

    Each is known by its first ``shortest`` characters. A text is read once from left to right, and only where such
    a beginning stands are the texts compared that begin so: work grows with the characters that are read, and hardly
    with how many texts are looked for.

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
        self._by_beginning: dict[str, list[tuple[str, int]]] = {}
        for number, text in enumerate(texts):
            part = normalise(text)
            if len(part) >= shortest:
                self._by_beginning.setdefault(part[:shortest], []).append((part, number))

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
            for part, number in self._by_beginning.get(whole[start : start + self._shortest], ()):
                if len(part) < len(whole) and whole.startswith(part, start):
                    found[number] = len(part) / len(whole)
        return dict(sorted(found.items(), key=lambda one: -one[1]))
