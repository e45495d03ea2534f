"""How an approximate index was chosen: what was tried, what was measured, and why the choice fell as it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from care_accel.errors import CareError
from care_accel.fields import build

EXACT = "exact"
# Of each statement about a recall: the probability that it is proven though it is false.
ERROR = 0.05
# It is divided between the two sequences of settings that may be tested on the queries kept apart, so that their sum keeps it.
ERRORS = (0.8 * ERROR, 0.2 * ERROR)
# From this share of added or removed vectors on, an index should be built again.
STALE = 0.2


@dataclass(frozen=True)
class Measured:
    """The mean recall of some queries, with bounds of the mean of all; each bound is wrong with a probability of 5 % at most.

    Attributes
    ----------
    recall, low, high : float
    queries : int
    """

    recall: float
    low: float
    high: float
    queries: int


@dataclass(frozen=True)
class Tried:
    """A setting that was tried.

    Attributes
    ----------
    name : str
        As faiss's index factory calls the structure, or ``"exact"``.
    setting : str
    recall : Measured or None
        On the tuning queries; None if it was not built.
    p50_us : float or None
        Median time of a search for one query, rescoring included, in microseconds.
    bytes : int
        What the structure takes beside the exact index.
    build_seconds : float
    note : str
        Why it was left out, if it was.
    """

    name: str
    setting: str = ""
    recall: Measured | None = None
    p50_us: float | None = None
    bytes: int = 0
    build_seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Choice:
    """The choice of an approximate index, and all that led to it.

    Attributes
    ----------
    name : str
        The structure, as faiss's index factory calls it, or ``"exact"``.
    value : int
        Its setting: ``efSearch`` of a graph, ``nprobe`` of lists.
    candidates : int
        How many vectors are rescored exactly for each query.
    why : str
    asked, k : float and int
        The recall that was asked for, of the k best.
    held_out : Measured or None
        Recall of the choice on queries that took no part in it; its ``low`` is the bound that decided.
    attempts : list of Measured
        The same of settings that failed.
    queries : str
        What queries were used.
    vectors, width : int
    faiss : str
        Version.
    data : str
        Hash of the vectors.
    seed : int
    seconds : float
        What the whole choice took.
    tried : list of Tried
    exact_us, chosen_us : float
        Median times of one query, measured in turns, in microseconds.
    least_share : float or None
        Subsets of at least this share of the vectors are searched approximately; None: all subsets are scanned exactly.
    least_alive : float or None
        While at least this share of the structure's vectors is not removed, it is searched; None: with a removal all is scanned.
    subsets : list of dict
        What was measured of random subsets: share, recall, bound, times.
    exact_from : int or None
        So many queries at once, or more, are scanned exactly, which takes less time; None: never.
    options : dict
        Of the build, for a rebuild.
    """

    name: str
    why: str
    asked: float
    k: int
    queries: str
    vectors: int
    width: int
    faiss: str
    data: str
    seed: int
    value: int = 0
    candidates: int = 0
    held_out: Measured | None = None
    attempts: list[Measured] = field(default_factory=list)
    seconds: float = 0.0
    tried: list[Tried] = field(default_factory=list)
    exact_us: float = 0.0
    chosen_us: float = 0.0
    least_share: float | None = None
    least_alive: float | None = None
    subsets: list[dict[str, float]] = field(default_factory=list)
    exact_from: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_exact(self) -> bool:
        """Whether every search is an exact scan."""
        return self.name == EXACT

    def allows(self, queries: int, k: int, share: float, *, subset: bool) -> bool:
        """Return whether the structure has the recall that was asked for, in less time than the exact scan, as measured.

        Parameters
        ----------
        queries : int
            So many at once.
        k : int
        share : float
            Which share of the structure's vectors may be found.
        subset : bool
            Whether only a subset is searched; else what is missing was removed.
        """
        if self.is_exact or not queries or k > self.k:
            return False
        if self.exact_from is not None and queries >= self.exact_from:
            return False
        least = self.least_share if subset else self.least_alive
        return share == 1 or (least is not None and share >= least)

    def to_json(self) -> dict[str, Any]:
        """Return all as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any], where: object) -> Choice:
        """Return what `to_json` wrote.

        Raises
        ------
        CareError
            It is something else.
        """
        try:
            choice = build(cls, values, "'choice'")
        except CareError as problem:
            raise CareError(f"{where}: is damaged: {problem}; build the index again") from None
        settings = () if choice.is_exact else (choice.value, choice.candidates, choice.k)
        if (
            min(choice.k, choice.width) < 1
            or choice.vectors < 0
            or not 0 < choice.asked < 1
            or not all(1 <= setting <= choice.vectors for setting in settings)
        ):
            raise CareError(
                f"{where}: is damaged: 'choice' has numbers that cannot be; build the index again"
            )
        return choice

    def table(self) -> str:
        """Return what was tried as a table of plain text."""
        head = ("structure", "setting", f"recall@{self.k}", "95 % bounds", "p50, us", "MB", "build, s", "")
        lines = [head, *(_cells(one) for one in self.tried)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        rows = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        return "\n".join([rows[0], "-" * max(map(len, rows)), *rows[1:]])

    def text(self) -> str:
        """Return the report as plain text."""
        lines = [
            f"Approximate search of {self.vectors:,} vectors of width {self.width}, asked for recall@{self.k} of {self.asked:.9g}",
            f"chosen: {self.name}{self._setting()}",
            f"why: {self.why}",
            f"queries: {self.queries}",
        ]
        if self.held_out is not None:
            lines.append(
                f"on queries kept apart: {described(self.held_out)}; exact {self.exact_us:.0f} us, chosen {self.chosen_us:.0f} us"
            )
        lines += [f"failed on queries kept apart: {described(one)}" for one in self.attempts]
        if not self.is_exact:
            lines.append(f"subsets: {self._subsets()}")
            many = "never" if self.exact_from is None else f"from {self.exact_from} on"
            lines.append(f"several queries at once are scanned exactly: {many}")
        lines.append(f"faiss {self.faiss}, seed {self.seed}, {self.seconds:.1f} s, vectors {self.data[:16]}")
        if self.tried:
            lines += ["", self.table()]
        return "\n".join(lines)

    def _setting(self) -> str:
        return (
            ""
            if self.is_exact
            else f", {setting_name(self.name)} {self.value}, {self.candidates} candidates rescored"
        )

    def _subsets(self) -> str:
        if self.least_share is None:
            return "all are scanned exactly"
        return f"from {100 * self.least_share:g} % of the vectors on approximate, below exact"


def setting_name(name: str) -> str:
    """Return what the setting of a structure is called in faiss."""
    return "efSearch" if "HNSW" in name else "nprobe"


def described(measured: Measured) -> str:
    """Return a recall in words."""
    return f"recall {measured.recall:.5f}, at least {measured.low:.5f} ({measured.queries:,} queries)"


def _cells(one: Tried) -> Sequence[str]:
    recall, bounds = "-", "-"
    if one.recall is not None:
        recall, bounds = f"{one.recall.recall:.5f}", f"{one.recall.low:.5f} to {one.recall.high:.5f}"
    return (
        one.name,
        one.setting,
        recall,
        bounds,
        "-" if one.p50_us is None else f"{one.p50_us:.0f}",
        f"{one.bytes / 1e6:.1f}",
        f"{one.build_seconds:.1f}",
        one.note,
    )
