"""What the READMEs show of the measurements: three figures and a picture. `readme` writes them."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.harness import record
from bench.harness.readme import Claim, Found, between, find, number
from care_accel.errors import CareError
from care_accel.report.drawing import charts
from care_accel.report.results.analysis import pareto_front
from care_accel.report.results.benchmarks import Group, Machine, Row, read_machines

ROOT = record.FOLDER.parents[1]
CARD = ROOT / "care_accel" / "assets" / "care-mini" / "README.md"
PICTURE = ROOT / "docs" / "images" / "accuracy-latency.svg"
READMES = {"en": ROOT / "README.md", "zh": ROOT / "README.zh-CN.md"}
BEGIN, END = "<!-- figures: written by bench/harness/readme.py -->", "<!-- end of figures -->"

CPU = Claim("", "scan", {"kind": "gaussian", "vectors": 100_000, "queries": 1})
GPU = Claim("", "cuda scan", {"vectors": 10_000_000, "queries": 1}, ("torch",))
_KEPT = re.compile(r"The query encoder keeps ([\d.]+), ([\d.]+) and ([\d.]+) % of its twin's nDCG")

_WORDS = {
    "en": (
        "- **At least {kept} % of the accuracy** (nDCG@10) of the symmetric twin, with a query encoder of half the layers: `care-mini` "
        "on three dev sets ([model card](care_accel/assets/care-mini/README.md)).",
        "- **{ratio:.1f} times the speed** of {peer}, the fastest exact peer: the exact top 10 of 100,000 x 768 in {ms} ms, on {cores} "
        "cores of an {machine} ({day}, [measurements](docs/measurements.md)).",
        "- **{share:.0f} % of the memory bandwidth** of a GPU: the exact top 10 of 10,000,000 x 768 in {ms} ms, on one {machine} ({day}, "
        "[measurements](docs/measurements.md)).",
    ),
    "zh": (
        "- **保留 {kept} % 以上的准确度**：`care-mini` 的查询编码器只有文档编码器一半的层数；与对称版本（查询也由文档编码器编码）相比，在三个开发集上保留"
        "了至少这么多的 nDCG@10，见[模型卡](care_accel/assets/care-mini/README.md)。",
        "- **{ratio:.1f} 倍的速度**：在 {cores} 个 {machine} 核心上，从 100,000 x 768 的向量中精确取出前 10 名用时 {ms} 毫秒，对比最快的精确实现 "
        "{peer}（{day}，见[测量结果](docs/measurements.md)）。",
        "- **{share:.0f} % 的显存带宽**：在一块 {machine} 上，从 10,000,000 x 768 的向量中精确取出前 10 名用时 {ms} 毫秒（{day}，"
        "见[测量结果](docs/measurements.md)）。",
    ),
}


def figures(language: str, results: list[dict[str, Any]], card: str) -> str:
    """Return three lines of Markdown: accuracy kept, speed on a CPU, share of a GPU's bandwidth.

    Parameters
    ----------
    language : {"en", "zh"}
    results : list of dict
        Contents of the files in bench/results.
    card : str
        The model card of care-mini.

    Raises
    ------
    CareError
        One of them has not been measured, or is too noisy to quote.
    """
    if (kept := _KEPT.search(" ".join(card.split()))) is None:
        raise CareError(f"{CARD}: does not say how much of its twin's nDCG the query encoder keeps")
    best = _quotable(CPU, results, lambda found: found.ratio.value if found.ratio else 0.0)
    large = _quotable(GPU, results, lambda found: found.ours.limit["share"] if found.ours.limit else 0.0)
    accuracy, speed, share = _WORDS[language]
    return "\n".join(
        (
            accuracy.format(kept=int(min(map(float, kept.groups())))),
            speed.format(ratio=best[1].ratio.value, peer=best[1].best.name, **_facts(best)),
            share.format(share=100 * large[1].ours.limit["share"], **_facts(large)),
        )
    )


def _quotable(
    claim: Claim, results: list[dict[str, Any]], value: Callable[[Found], float]
) -> tuple[dict[str, Any], Any]:
    """Return the machine where a claim is smallest, of those whose rows are not noisy, and its rows."""
    found = [(one["machine"], rows) for one in results if (rows := find(claim, one["runs"])) is not None]
    clear = [
        (machine, rows)
        for machine, rows in found
        if not rows.ours.noisy and rows.ratio is not None and not rows.ratio.noisy
    ]
    if not clear:
        raise CareError(f"bench/results: no machine has a quotable row of {claim.suite} {claim.where}")
    return min(clear, key=lambda one: value(one[1]))


def _facts(one: tuple[dict[str, Any], Any]) -> dict[str, Any]:
    machine, rows = one
    return {
        "ms": number(rows.ours.p50_ms),
        "cores": machine["cores"],
        "machine": machine["gpu"] or machine["processor"],
        "day": rows.day,
    }


_STYLE = """
text { font: 12.5px system-ui, "PingFang SC", "Noto Sans CJK SC", sans-serif; fill: #18211f; }
.sheet { fill: #ffffff; } .tick, .axis, .source { fill: #55625f; }
.label { paint-order: stroke; stroke: #ffffff; stroke-width: 3px; stroke-linejoin: round; } .label.ours { font-weight: 650; }
.grid { stroke: #dbe1df; fill: none; } .frame, .leader { stroke: #97a4a1; fill: none; }
.front { stroke: #97a4a1; fill: none; stroke-width: 1.5; stroke-dasharray: 5 3; }
.mark { stroke-width: 1.8; } .s0 { stroke: #0b6b63; fill: #0b6b63; } .s1 { stroke: #b3560a; fill: #b3560a; }
.s2 { stroke: #3552b8; fill: #3552b8; } .s3 { stroke: #8a3a86; fill: #8a3a86; } .faded.mark { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
  text { fill: #e4ebe9; } .sheet { fill: #171e1d; } .tick, .axis, .source { fill: #a0afac; }
  .label { stroke: #171e1d; } .grid { stroke: #2c3735; } .frame, .leader, .front { stroke: #63716e; }
  .s0 { stroke: #4fc9ba; fill: #4fc9ba; } .s1 { stroke: #f2a14e; fill: #f2a14e; } .s2 { stroke: #94abff; fill: #94abff; }
  .s3 { stroke: #dc98d8; fill: #dc98d8; } .faded.mark { fill: #171e1d; }
}
"""
_STYLES = {"asymmetric": 1, "symmetric": 2}


def picture(machines: list[Machine], card: str) -> str:
    """Return an SVG of accuracy against latency: the configurations of the newest quiet run that measured both.

    If care-mini has been trained again since, the picture says so.

    Parameters
    ----------
    machines : list of Machine
    card : str
        The model card of care-mini.

    Raises
    ------
    CareError
        No run did.
    """
    machine, group = _newest(machines)
    rows = sorted((row for row in group.rows if row.quality is not None), key=lambda row: row.ms_per_query)
    assert rows[0].quality is not None
    points = [(row.ms_per_query, float(row.quality["score"])) for row in rows if row.quality]
    quoted = [i for i, row in enumerate(rows) if not row.noisy]
    front = {quoted[i] for i in pareto_front([points[i] for i in quoted])}
    plot = charts.scatter(
        [
            charts.Point(
                i + 1,
                row.name,
                points[i][0],
                100 * points[i][1],
                style=0 if row.ours else _STYLES.get(str(row.parameters.get("family")), 3),
                front=i in front,
                faded=row.noisy,
            )
            for i, row in enumerate(rows)
        ],
        x_title="milliseconds from a query's text to its ten best hits, median (logarithmic)",
        y_title=f"{rows[0].quality.get('metric', 'score')}, percent",
        label="Accuracy against the time of a query",
    )
    body = re.search(r'<svg class="plot wide" viewBox="0 0 \d+ (\d+)"[^>]*>(.*?)</svg>', plot, re.DOTALL)
    assert body is not None
    # A label that does not fit is a number; there is no table here that would say of what.
    drawn = re.sub(r'<text class="label[^>]*>\d+</text>', "", body[2])
    noisy = "; hollow: too noisy to quote" if any(row.noisy for row in rows) else ""
    cores = machine.facts["cores"]
    sources = [
        f"{rows[0].quality['task']}, {int(rows[0].parameters['documents']):,} documents; {cores} core{'s' * (cores > 1)} of an "
        f"{machine.facts['processor']}, {group.run.started[:10]}{noisy}"
    ]
    if group.ours is not None and (earlier := _earlier(group.ours, card)):
        sources.append(earlier)
    height, lines = int(body[1]) + 8, []
    for one in sources:
        height += 17
        lines.append(f'<text class="source" x="0" y="{height}">{html.escape(one)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 -8 {charts.WIDE + 24} {height + 18}" role="img">\n'
        f"<title>Accuracy against latency</title>\n<style>{_STYLE}</style>\n"
        f'<rect class="sheet" x="-12" y="-8" width="{charts.WIDE + 24}" height="{height + 18}" rx="6"/>\n'
        f"{drawn}\n{chr(10).join(lines)}\n</svg>\n"
    )


def _newest(machines: list[Machine]) -> tuple[Machine, Group]:
    found = [
        (machine, group) for machine in machines for group in machine.groups() if group.suite == "tradeoff"
    ]
    quiet = [
        one
        for one in found
        if one[1].run.size != "smoke" and one[1].ours is not None and not one[1].ours.noisy
    ]
    if not quiet:
        raise CareError(
            "bench/results: no quiet run of bench/encoding/test_tradeoff.py; run it with --benchmark-only on an idle machine"
        )
    return max(quiet, key=lambda one: one[1].run.started)


def _earlier(row: Row, card: str) -> str:
    """Return a note if the card has another score of care-mini than a row, else nothing."""
    assert row.quality is not None
    score = 100 * float(row.quality["score"])
    now = re.search(rf"^\| {re.escape(str(row.quality['task']))} \| ([\d.]+) ", card, re.MULTILINE)
    if now is None or abs(float(now[1]) - score) < 0.5:
        return ""
    return (
        f"An earlier care-mini was measured, with {score:.1f} percent; the one in the package has {now[1]}."
    )


def documents(results: list[dict[str, Any]], folder: Path = record.FOLDER) -> dict[Path, str]:
    """Return what the READMEs and the picture should be."""
    card = CARD.read_text(encoding="utf-8")
    texts = {
        file: between(file.read_text(encoding="utf-8"), BEGIN, END, figures(language, results, card), file)
        for language, file in READMES.items()
    }
    return texts | {PICTURE: picture(read_machines(folder), card)}
