"""What each part of the training recipe is worth: the paper's ablation, with small networks.

``python -m bench.ablation.ablation --data-dir data --output runs/ablation`` trains the recipe next to this
file whole and without one part at a time, evaluates every run on dev, and writes ``ablation.json`` and
``ablation.md``. Every run has the same budget: what a run without a stage saves, its other stages spend. A run
that was stopped resumes.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

HERE = Path(__file__).parent
TASKS = ("retrieval/*", "reranking/*")
QUERY, DOCUMENT, ALIGNMENT, JOINT = "query-initialisation", "document-initialisation", "alignment", "joint"
# The paper's means of retrieval and reranking (arXiv 2604.10937, ablation and main tables), 0.3B-4B.
PUBLISHED = {
    "full": 64.38,
    "without query initialisation": 59.66,
    "without document initialisation": 50.26,
    "without Stage I": 51.07,
    "without Stage II": 55.49,
    "without MSE": 63.57,
    "without InfoNCE in Stage I": 64.03,
    "symmetric": 65.06,
}


def variants(recipe: dict[str, Any], seconds: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Return the recipe of every run but the full one.

    Parameters
    ----------
    recipe : dict
        The full recipe.
    seconds : dict of str to float
        What each of its stages took.
    """

    def without(stage: str) -> dict[str, Any]:
        return _keep(recipe, seconds, [name for name in seconds if name != stage])

    def changed(**values: float) -> dict[str, Any]:
        found = copy.deepcopy(recipe)
        _stage(found, ALIGNMENT).update(values)
        return found

    # The document encoder on both sides has no Stage I, and Stage II trains one network.
    symmetric = _keep(recipe, seconds, [DOCUMENT, JOINT])
    _stage(symmetric, JOINT).update(method="contrastive", role="document")
    return {
        "without query initialisation": without(QUERY),
        "without document initialisation": without(DOCUMENT),
        "without Stage I": without(ALIGNMENT),
        "without Stage II": without(JOINT),
        "without MSE": changed(mse_weight=0.0),
        "without InfoNCE in Stage I": changed(info_nce_weight=0.0),
        "symmetric": symmetric,
    }


def _keep(recipe: dict[str, Any], seconds: dict[str, float], names: Sequence[str]) -> dict[str, Any]:
    """Keep some stages, and lengthen them all alike to the time of the whole recipe."""
    found = copy.deepcopy(recipe)
    found["stages"] = [stage for stage in found["stages"] if stage["name"] in names]
    longer = sum(seconds.values()) / sum(seconds[name] for name in names)
    for stage in found["stages"]:
        stage["epochs"] = round(stage["epochs"] * longer, 2)
    return found


def _stage(recipe: dict[str, Any], name: str) -> dict[str, Any]:
    return next(stage for stage in recipe["stages"] if stage["name"] == name)


def run(name: str, recipe: dict[str, Any], data_dir: Path, output: Path) -> dict[str, Any]:
    """Train and evaluate one run, or resume it, and return its row of the table."""
    folder = output / name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False), encoding="utf-8")
    _share(output / "full" / "stages", folder / "stages", recipe)
    _command("train", file, "--data-dir", data_dir, "--output", folder / "stages")
    model = folder / "stages" / recipe["stages"][-1]["name"]
    if name == "symmetric":
        model = _same_on_both_sides(model, folder / "model")
    results = folder / "results"
    _command(
        "eval", "--model", model, "--data-dir", data_dir, "--split", "dev", "--tasks", *TASKS,
        "--output", results,
    )  # fmt: skip
    summary = json.loads(next(results.glob("*/summary.json")).read_text(encoding="utf-8"))
    return {
        "run": name,
        "epochs": {stage["name"]: stage["epochs"] for stage in recipe["stages"]},
        "seconds": seconds_of(folder / "stages", recipe),
        "scores": {task: entry["main_score"] for task, entry in summary["tasks"].items()},
        "intervals": {task: entry["interval"] for task, entry in summary["tasks"].items()},
    }


def seconds_of(stages: Path, recipe: dict[str, Any]) -> dict[str, float]:
    """Return what each stage of a finished run took."""
    return {
        stage["name"]: json.loads((stages / stage["name"] / "training.json").read_text())["seconds"]
        for stage in recipe["stages"]
    }


def _share(full: Path, stages: Path, recipe: dict[str, Any]) -> None:
    """Take over the first stages of the full run that this run would only repeat."""
    if full == stages or not full.is_dir():
        return
    whole = yaml.safe_load((full.parent / "recipe.yaml").read_text(encoding="utf-8"))
    for mine, theirs in zip(recipe["stages"], whole["stages"], strict=False):
        if mine != theirs or not (full / mine["name"]).is_dir():
            break
        if not (stages / mine["name"]).exists():
            shutil.copytree(full / mine["name"], stages / mine["name"])


def _same_on_both_sides(model: Path, folder: Path) -> Path:
    from care_accel import DualEncoder

    if not folder.exists():
        DualEncoder.from_pretrained(model).twin().save_pretrained(folder)
    return folder


def _command(verb: str, *arguments: Any) -> None:
    subprocess.run([sys.executable, "-m", "care_accel", verb, *map(str, arguments)], check=True)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown, percent, with the margin of error: half the width of the 95 % interval."""
    tasks = list(rows[0]["scores"])
    lines = [
        "| run | " + " | ".join(tasks) + " | mean | change | in the paper |",
        "|---|" + "---|" * (len(tasks) + 3),
    ]
    whole = _mean(rows[0])[0]
    for row in rows:
        margins = [_margin(row["intervals"][task]) for task in tasks]
        cells = [
            f"{100 * row['scores'][task]:.1f} ± {100 * margin:.1f}"
            for task, margin in zip(tasks, margins, strict=True)
        ]
        mean, margin = _mean(row)
        change = "" if row is rows[0] else f"{100 * (mean - whole):+.1f}"
        published = PUBLISHED[row["run"]]
        there = f"{published:.2f}" + (
            "" if row is rows[0] else f" ({published - PUBLISHED[rows[0]['run']]:+.2f})"
        )
        lines.append(
            " | ".join([f"| {row['run']}", *cells, f"{100 * mean:.1f} ± {100 * margin:.1f}", change, there])
            + " |"
        )
    return "\n".join(lines) + "\n"


def _margin(interval: Sequence[float]) -> float:
    return (interval[1] - interval[0]) / 2


def _mean(row: dict[str, Any]) -> tuple[float, float]:
    """Return the mean over the sets, whose queries are sampled independently, and its margin of error."""
    margins = [_margin(interval) for interval in row["intervals"].values()]
    return float(np.mean(list(row["scores"].values()))), float(np.linalg.norm(margins) / len(margins))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the whole ablation."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--recipe", type=Path, default=HERE / "recipe.yaml")
    parser.add_argument("--only", nargs="+", metavar="RUN", help="these runs; the full one is always there")
    options = parser.parse_args(arguments)
    # Aliases of the file become copies, so that a run may change one stage alone.
    recipe = json.loads(json.dumps(yaml.safe_load(options.recipe.read_text(encoding="utf-8"))))
    rows = [run("full", recipe, options.data_dir, options.output)]
    for name, changed in variants(recipe, rows[0]["seconds"]).items():
        if options.only is None or name in options.only:
            rows.append(run(name, changed, options.data_dir, options.output))
    (options.output / "ablation.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (options.output / "ablation.md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
