"""Plot of the agreement statistics with confidence intervals, and of each judge's grade distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from care_accel.curation.config import HIGHEST, LOWEST
from care_accel.curation.labels.kappa import Statistic


def draw(figures: Sequence[Statistic], grades: Mapping[str, Sequence[int]], files: Sequence[Path]) -> None:
    """Plot to files; the suffix of each selects its format.

    Parameters
    ----------
    figures : sequence of Statistic
        Undefined ones are omitted.
    grades : mapping of str to sequence of int
        Counts of each grade by judge, the lowest grade first.
    files : sequence of Path
    """
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    from matplotlib import pyplot

    known = [one for one in figures if one.value is not None]
    height = 1.5 + 0.35 * max(len(known), 6)
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(12, height), layout="constrained", width_ratios=(3, 2)
    )
    for row, one in enumerate(known):
        if one.interval is not None:
            left.plot(one.interval, (row, row), color="0.6", linewidth=2)
        left.plot([one.value], [row], "o", color="C0" if one.of == "labels" else "C1")
    texts = [
        f"{one.name}, {one.of}" + ("" if len(known) < 4 else f"\n{', '.join(one.judges)}") for one in known
    ]
    left.set_yticks(range(len(known)), texts, fontsize=7)
    left.invert_yaxis()
    left.axvline(0, color="0.8", linewidth=1)
    left.set(
        title="agreement, 95 % intervals over queries", xlabel="1: perfect, 0: chance", xlim=(None, 1.02)
    )
    left.grid(axis="x", alpha=0.3)
    positions = np.arange(LOWEST, HIGHEST + 1)
    width = 0.8 / max(1, len(grades))
    for number, (judge, counts) in enumerate(grades.items()):
        share = np.asarray(counts) / max(1, sum(counts))
        right.bar(positions + (number - (len(grades) - 1) / 2) * width, 100 * share, width, label=judge)
    right.set(title="grades given", xlabel="grade", ylabel="% of the judge's grades", xticks=positions)
    right.legend()
    for file in files:
        figure.savefig(file, dpi=120)
        file.chmod(0o600)
    pyplot.close(figure)
