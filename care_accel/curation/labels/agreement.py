"""Inter-annotator agreement of the judges: Fleiss' kappa, Krippendorff's alpha, pairwise Cohen's kappa.

Point estimates are those of statsmodels and krippendorff. Confidence intervals are from a percentile bootstrap
clustered by query: pairs of one query are resampled together. All statistics are functions of counts that are
additive over pairs (how often which grades co-occur), so a resample is a sum of per-query counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from care_accel.curation.config import HIGHEST, LOWEST, Config
from care_accel.curation.labels.agreement_plot import draw
from care_accel.curation.labels.kappa import Statistic, alpha_point, cohen_point, fleiss_point
from care_accel.curation.labels.vote import FILE as VOTES
from care_accel.curation.labels.vote import VotedPair, read_votes
from care_accel.curation.steps import Progress, Summary
from care_accel.errors import CareError
from care_accel.files import write_json

FILE = "agreement.json"
RESAMPLES, LEVEL, SEED = 1000, 0.95, 0
_GRADES = HIGHEST - LOWEST + 1
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """Agreement statistics, and the grade distribution of each judge.

    Attributes
    ----------
    figures : list of Statistic
    grades : dict of str to list of int
    all_agree : float or None
        Share of the completely graded pairs on whose label all judges agree.
    """

    figures: list[Statistic]
    grades: dict[str, list[int]]
    all_agree: float | None
    notes: list[str] = field(default_factory=list)


def run(config: Config, progress: Progress) -> Summary:
    """Write ``agreement.json`` and ``agreement.png`` and ``.svg``.

    Raises
    ------
    CareError
        There are no votes, or they are of a single judge or of other judges.
    """
    votes = read_votes(config.output_file(VOTES))
    judges = [judge.name for judge in config.judges]
    if votes and set(votes[0].grades) != set(judges):
        raise CareError(
            "the votes are of other judges than those configured; run care-accel curate vote again"
        )
    found = measure(votes, judges, config.vote.cutoff)
    files = [config.output_file(name) for name in (FILE, "agreement.png", "agreement.svg")]
    write_json(files[0], {"schema": 1, "cutoff": config.vote.cutoff, **asdict(found)}, private=True)
    draw(found.figures, found.grades, files[1:])
    rows: list[Sequence[str]] = [("statistic", "of", "judges", "value", "95 % interval", "pairs")]
    rows += [
        (
            one.name,
            one.of,
            ", ".join(one.judges),
            _number(one.value),
            _interval_text(one.interval),
            f"{one.pairs:,}",
        )
        for one in found.figures
    ]
    agree = "-" if found.all_agree is None else f"{100 * found.all_agree:.1f} %"
    return Summary({"all judges agree on the label": agree}, rows, files, found.notes)


def measure(votes: Sequence[VotedPair], judges: Sequence[str], cutoff: float) -> Agreement:
    """Compute the agreement statistics.

    Fleiss' kappa is over pairs graded by every judge, Cohen's over those graded by both, Krippendorff's alpha over
    those graded by at least two.

    Parameters
    ----------
    votes : sequence of VotedPair
    judges : sequence of str
    cutoff : float
        Lowest grade of a positive label.

    Raises
    ------
    CareError
        Fewer than two judges, or no pair with two grades.
    """
    if len(judges) < 2:
        raise CareError("agreement needs two judges, and fewer than two are configured; add one under judges")
    # Grades from 0, -1 if missing.
    grades = np.array([[(vote.grades[name] or 0) - LOWEST for name in judges] for vote in votes]).reshape(
        -1, len(judges)
    )
    if not ((grades >= 0).sum(axis=1) > 1).any():
        raise CareError("no pair has the grades of two judges; run care-accel curate judge and vote")
    labels = np.where(grades < 0, -1, grades + LOWEST >= cutoff).astype(int)
    numbers: dict[str, int] = {}
    queries = np.array([numbers.setdefault(vote.query, len(numbers)) for vote in votes])
    every = np.all(grades >= 0, axis=1)
    names = tuple(judges)
    figures = []
    for of, values, categories in (("labels", labels, 2), ("grades", grades, _GRADES)):
        figures.append(
            _figure(
                "Fleiss' kappa",
                of,
                names,
                fleiss_counts(values[every], categories),
                queries[every],
                fleiss_point(values[every], categories),
                _fleiss,
            )
        )
    two = (grades >= 0).sum(axis=1) > 1
    figures.append(
        _figure(
            "Krippendorff's alpha (ordinal)",
            "grades",
            names,
            coincidences(grades[two]),
            queries[two],
            alpha_point(grades[two]),
            _alpha,
        )
    )
    for a, b in itertools.combinations(range(len(judges)), 2):
        both = (grades[:, [a, b]] >= 0).all(axis=1)
        for of, values, categories, weighted in (
            ("labels", labels, 2, False),
            ("grades", grades, _GRADES, True),
        ):
            one, other = values[both, a], values[both, b]
            cells = np.zeros((len(one), categories, categories))
            cells[np.arange(len(one)), one, other] = 1
            figures.append(
                _figure(
                    "Cohen's kappa (quadratic)" if weighted else "Cohen's kappa",
                    of,
                    (judges[a], judges[b]),
                    cells.reshape(len(one), -1),
                    queries[both],
                    cohen_point(cells.sum(axis=0), weighted),
                    _quadratic_cohen if weighted else _cohen,
                )
            )
    complete = labels[every]
    notes = [f"{(~every).sum()} of {len(every)} pairs lack a grade"] if not every.all() else []
    if undefined := [one.name for one in figures if one.value is None]:
        notes.append(f"undefined, because all grades are equal: {', '.join(dict.fromkeys(undefined))}")
    shares = {
        name: np.bincount(grades[grades[:, i] >= 0, i], minlength=_GRADES).tolist()
        for i, name in enumerate(judges)
    }
    agree = float((complete == complete[:, :1]).all(axis=1).mean()) if len(complete) else None
    return Agreement(figures, shares, agree, notes)


def _figure(
    name: str,
    of: str,
    judges: tuple[str, ...],
    counts: Floats,
    queries: NDArray[np.int64],
    value: float | None,
    function: Callable[[Floats], Floats],
) -> Statistic:
    """Add a bootstrap interval to a value: ``function`` maps sums of counts, ``[resamples, ...]``, to values."""
    interval = None
    if value is not None:
        own = np.unique(queries, return_inverse=True)[1]
        totals = np.zeros((own.max() + 1, counts.shape[1]))
        np.add.at(totals, own, counts)
        n = len(totals)
        rng = np.random.default_rng(SEED)
        drawn = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = function(drawn @ totals)
        values = values[np.isfinite(values)]  # undefined for a resample with equal grades
        if len(values):
            low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            interval = float(low), float(high)
    return Statistic(name, of, judges, value, interval, len(counts))


def fleiss_counts(values: NDArray[np.int64], categories: int) -> Floats:
    """Return, by pair: one, the share of agreeing pairs of judges, the count of each category."""
    table = np.stack([(values == category).sum(axis=1) for category in range(categories)], axis=1)
    judges = values.shape[1]
    agreeing = (table * (table - 1)).sum(axis=1) / (judges * (judges - 1))
    return np.column_stack([np.ones(len(values)), agreeing, table]).astype(np.float64)


def _fleiss(sums: Floats) -> Floats:
    shares = sums[:, 2:] / sums[:, 2:].sum(axis=1, keepdims=True)
    chance = (shares**2).sum(axis=1)
    return (sums[:, 1] / sums[:, 0] - chance) / (1 - chance)


def coincidences(values: NDArray[np.int64]) -> Floats:
    """Return, by pair, Krippendorff's coincidence matrix, ``[n, 25]``; a grade of -1 is missing."""
    table = np.stack([(values == grade).sum(axis=1) for grade in range(_GRADES)], axis=1).astype(np.float64)
    both = table[:, :, None] * table[:, None, :] - np.eye(_GRADES) * table[:, None, :]
    return (both / (table.sum(axis=1) - 1)[:, None, None]).reshape(len(values), -1)


def _alpha(sums: Floats) -> Floats:
    observed = sums.reshape(-1, _GRADES, _GRADES)
    given = observed.sum(axis=2)
    below = np.cumsum(given, axis=1) - given / 2  # ordinal distance: the number of grades in between
    distance = (below[:, :, None] - below[:, None, :]) ** 2
    expected = given[:, :, None] * given[:, None, :] / (given.sum(axis=1) - 1)[:, None, None]
    return 1 - (observed * distance).sum(axis=(1, 2)) / (expected * distance).sum(axis=(1, 2))


def _kappa(sums: Floats, distance: Floats) -> Floats:
    size = len(distance)
    tables = sums.reshape(-1, size, size)
    chance = (
        tables.sum(axis=2)[:, :, None]
        * tables.sum(axis=1)[:, None, :]
        / tables.sum(axis=(1, 2))[:, None, None]
    )
    return 1 - (tables * distance).sum(axis=(1, 2)) / (chance * distance).sum(axis=(1, 2))


def _cohen(sums: Floats) -> Floats:
    return _kappa(sums, 1.0 - np.eye(2))


def _quadratic_cohen(sums: Floats) -> Floats:
    steps = np.arange(_GRADES, dtype=np.float64)
    return _kappa(sums, (steps[:, None] - steps) ** 2)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval_text(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
