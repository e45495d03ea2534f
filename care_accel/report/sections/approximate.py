"""How an approximate index was chosen: recall against time of all settings that were tried, and the choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from care_accel.errors import CareError
from care_accel.files import read_json
from care_accel.report.drawing import charts
from care_accel.report.drawing.blocks import (
    Cell,
    Figure,
    Line,
    Part,
    Section,
    Table,
    megabytes,
    number,
    share,
)
from care_accel.report.results.analysis import pareto_front

MANIFEST = "approximate.json"
# Of a collection the choice is here; see docs/collections.md.
_IN_COLLECTION = Path("index") / "approximate"


@dataclass(frozen=True)
class _Setting:
    """A setting with a time: ``bounds`` of its recall are missing of the exact scan."""

    name: str
    recall: float
    bounds: tuple[float, float] | None
    microseconds: float
    bytes: float
    seconds: float | None
    note: str
    style: int


@dataclass(frozen=True)
class ApproximateChoice:
    """What a saved approximate index, or a collection, says of its choice.

    Attributes
    ----------
    folder : Path
    values : dict
        As `care_accel.index.approximate.Choice.to_json` returns them.
    settings : list
    """

    folder: Path
    values: dict[str, Any]
    settings: list[_Setting]


def read_choices(folders: Sequence[Path]) -> list[ApproximateChoice]:
    """Read how the indexes of some folders were chosen.

    Raises
    ------
    CareError
        A folder has no approximate index, or a damaged one.
    """
    found = []
    for folder in folders:
        places = (folder, folder / _IN_COLLECTION)
        place = next((one for one in places if (one / MANIFEST).is_file()), None)
        if place is None:
            raise CareError(
                f"--index {folder}: has no {MANIFEST}; give the folder of a saved ApproximateIndex, or of a collection "
                "for which care-accel collection index has chosen one"
            )
        file = place / MANIFEST
        values: Any = read_json(file, "a saved approximate index has one").get("choice")
        try:
            found.append(ApproximateChoice(folder, values, _settings(values)))
        except (KeyError, TypeError, AttributeError):
            raise CareError(f"{file}: 'choice' is damaged; build the index again") from None
    return found


def approximate_indexes(choices: Sequence[ApproximateChoice]) -> Part:
    """Return a plot and a table of each choice."""
    lead = (
        "Each mark is a setting that was tried: its recall on the tuning queries and the median time of one query, rescoring included. "
        "The choice is marked: it is the fastest that proved the recall that was asked for on queries kept apart, whose recall is shown."
    )
    return Part(
        "Approximate indexes",
        "approximate",
        lead,
        [Section(one.folder.name, figures=[_figure(one)]) for one in choices],
    )


def _settings(values: dict[str, Any]) -> list[_Setting]:
    found = []
    for one in values["tried"]:
        measured, exact = one["recall"], one["name"] == "exact"
        if one["p50_us"] is None or (measured is None and not exact):
            continue
        found.append(
            _Setting(
                f"{one['name']} {one['setting']}".strip(),
                1.0 if exact else measured["recall"],
                None if exact else (measured["low"], measured["high"]),
                one["p50_us"],
                one["bytes"],
                one["build_seconds"],
                "chosen" if one["name"] == values["name"] == "exact" else one["note"],
                _style(one["name"], values["name"]),
            )
        )
    held = values["held_out"]
    if values["name"] != "exact":
        chosen = f"{values['name']} {values['value']}, {values['candidates']} rescored"
        bounds = held["low"], held["high"]
        note = f"chosen; recall on {held['queries']:,} queries kept apart"
        found.append(_Setting(chosen, held["recall"], bounds, values["chosen_us"], 0, None, note, 0))
    return sorted(found, key=lambda one: one.microseconds)


def _style(name: str, chosen: str) -> int:
    if name == "exact":
        return 0 if chosen == "exact" else 3
    return 2 if "HNSW" in name else 1


def _figure(choice: ApproximateChoice) -> Figure:
    values, settings = choice.values, choice.settings
    return Figure(
        f"{values['vectors']:,} vectors of width {values['width']}, asked for recall@{values['k']} of {values['asked']:g}",
        where=f"faiss {values['faiss']} · queries: {values['queries']}",
        # Too few vectors are scanned without trying anything.
        plot=_plot(settings, values["k"]) if settings else None,
        tables=[_table(settings)] if settings else [],
        notes=[f"{values['why']}.", *_left_out(values["tried"])],
    )


def _left_out(tried: Sequence[dict[str, Any]]) -> list[str]:
    """Return a note on what has no time, and why."""
    left = [
        f"{one['name']} {one['setting']}".strip() + f" ({one['note']})"
        for one in tried
        if one["p50_us"] is None
    ]
    return [f"Left out: {', '.join(left)}."] if left else []


def _plot(settings: Sequence[_Setting], k: int) -> Markup:
    front = set(pareto_front([(one.microseconds, one.recall) for one in settings]))
    plot = charts.scatter(
        [
            charts.Point(
                i + 1, one.name, one.microseconds / 1e3, 100 * one.recall, style=one.style, front=i in front
            )
            for i, one in enumerate(settings)
        ],
        x_title="ms per query, median (logarithmic)",
        y_title=f"recall@{k}, percent",
        label=f"Recall against the time of a query for {len(settings)} settings; the table has them all",
    )
    kinds = [("chosen", 0), ("lists", 1), ("graph", 2), ("exact scan", 3)]
    used = {one.style for one in settings}
    return charts.legend([kind for kind in kinds if kind[1] in used]) + plot


def _table(settings: Sequence[_Setting]) -> Table:
    columns = [
        *(("setting", ""), ("no.", "n"), ("recall", "n"), ("at least", "n"), ("at most", "n")),
        *(("ms per query, p50", "n"), ("beside the vectors, MB", "n"), ("build, s", "n"), ("", "note")),
    ]
    lines = [
        Line(
            [
                Cell(one.name),
                Cell(str(i)),
                share(one.recall, 3),
                *(share(bound, 3) for bound in one.bounds or (None, None)),
                number(one.microseconds / 1e3),
                megabytes(one.bytes or None),
                number(one.seconds or None),
                Cell(one.note),
            ],
            "ours" if one.style == 0 else "",
        )
        for i, one in enumerate(settings, start=1)
    ]
    return Table(columns, lines)
