"""Stage II with hard negatives that the curation made against random ones: same rows, same steps, several seeds.

``python bench/curation/negatives.py --data-dir data --output runs/negatives`` prints a table. What is there of an
earlier run is kept: it goes on where it was stopped.

Stage II starts from a Stage I model, as in the paper: the first two stages of care-mini's recipe, shortened, without
a teacher. The labels play the judge: each training row shows one of its labelled answers, and the judge knows all of
them. Negatives are mined by the Stage I model and BM25. nDCG@10 on dev, whose queries and judgements no row has.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from care_accel.curation.clean import clean_text, why_unusable
from care_accel.curation.config import TrainData
from care_accel.curation.steps import shown
from care_accel.curation.train_data import REPORT, TRIPLETS, make_train_data
from care_accel.errors import exit_code
from care_accel.eval.compare import read_run
from care_accel.eval.scores import QueryScores
from care_accel.eval.significance import adjusted, paired
from care_accel.files import read_jsonl

SETS = ("huatuo-qa", "toyhom-qa", "cmedir")
TASKS = ("retrieval/cmedir", "retrieval/epilepsy-qa", "retrieval/huatuo-qa")
BEFORE, RANDOM = "Stage I alone", "random"
# By name the margin of `train-data`: candidates that score nearly as well as the answer are left out, or are not.
CURATED = {"curated, margin 0.1": 0.1, "curated, no margin": None}
NEGATIVES = 7
SHORT = {"max_query_tokens": 48, "max_document_tokens": 48}
STAGE = {
    "name": "joint",
    "method": "joint",
    "temperature": 0.05,
    "negatives": 2,
    "epochs": 1.0,
    "batch_size": 64,
    "learning_rate": 3.0e-4,
    "weight_decay": 0.01,
    "save_steps": 100,
    **SHORT,
    "data": [{"file": f"{name}.jsonl"} for name in SETS],
}
Row = dict[str, Any]


@dataclass
class Known:
    """The training rows of one set: what each shows, all that its labels know, and the set's documents."""

    questions: list[Row]
    answers: dict[str, set[str]]
    documents: list[str]


def command(verb: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "care_accel", verb, *map(str, arguments)], check=True)


def write(file: Path, rows: Sequence[Row]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def start_model(data: Path, output: Path) -> Path:
    """Train care-mini's networks to the end of Stage I, in minutes."""
    recipe = yaml.safe_load((files("care_accel.training") / "recipes" / "care-mini.yaml").read_text("utf-8"))
    stages = {stage["name"]: stage for stage in recipe["stages"]}
    for source in stages["align"]["data"]:
        source.pop("sentences", None)
    recipe["stages"] = [
        stages["document"] | SHORT | {"epochs": 0.6},
        stages["align"] | SHORT | {"epochs": 0.5},
    ]
    recipe |= {"name": "start", "save_dtype": "float32"}
    file = output / "start.yaml"
    file.write_text(yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False), encoding="utf-8")
    command("train", file, "--data-dir", data, "--output", output / "start")
    return output / "start" / "align"


def read_sets(data: Path) -> dict[str, Known]:
    rng = random.Random(0)
    found = {}
    for name in SETS:
        known = Known([], {}, [])
        for _, row in read_jsonl(data / "train" / "permissive" / f"{name}.jsonl.gz"):
            positives = [clean_text(text) for text in row["pos"]]
            known.answers.setdefault(clean_text(row["query"]), set()).update(positives)
            known.questions.append({"query": row["query"], "pos": [rng.choice(row["pos"])]})
            known.documents += [*positives, *map(clean_text, row["neg"])]
        known.documents = [text for text in dict.fromkeys(known.documents) if why_unusable(text) is None]
        found[name] = known
    return found


def curate(sets: dict[str, Known], output: Path, model: Path, margin: float | None) -> list[Row]:
    """Make triplets with negatives that the labels, as the judge, call none."""
    folder = output / "curation"
    file = folder / f"margin-{margin}.jsonl"
    if not file.is_file():
        write(folder / "questions.jsonl", [row for known in sets.values() for row in known.questions])
        write(
            folder / "documents.jsonl",
            [{"text": text} for known in sets.values() for text in known.documents],
        )
        settings = TrainData(
            [str(folder / "questions.jsonl"), str(folder / "documents.jsonl")],
            seeds=2000,
            neighbours=5,
            similarity=0.9,
            negatives=NEGATIVES,
            margin=margin,
            model=str(model),
        )
        answers: dict[str, set[str]] = {}
        for known in sets.values():
            for query, texts in known.answers.items():
                answers.setdefault(query, set()).update(texts)
        make_train_data(
            settings,
            folder,
            lambda pairs: [text in answers.get(query, ()) for query, text in pairs],
            progress=shown,
        )
        os.replace(folder / REPORT, folder / f"margin-{margin}.json")
        os.replace(folder / TRIPLETS, file)
    counts = json.loads((folder / f"margin-{margin}.json").read_text(encoding="utf-8"))["counts"]
    print(f"margin {margin}:", json.dumps(counts), flush=True)
    return [row for _, row in read_jsonl(file)]


def by_set(rows: Sequence[Row], sets: dict[str, Known], seed: int, *, drawn: bool) -> dict[str, list[Row]]:
    """Give every row as many negatives; what it lacks, or all if ``drawn``, is drawn from its set's documents."""
    found: dict[str, list[Row]] = {name: [] for name in sets}
    rng = random.Random(seed)
    for row in rows:
        name = next(name for name, known in sets.items() if row["query"] in known.answers)
        answers = sets[name].answers[row["query"]].union(row["pos"])
        negatives = [] if drawn else list(row["neg"])
        while len(negatives) < NEGATIVES:
            text = rng.choice(sets[name].documents)
            if text not in answers and text not in negatives:
                negatives.append(text)
        found[name].append({**row, "neg": negatives})
    return found


def evaluate(name: str, model: Path, data: Path, output: Path) -> dict[str, QueryScores]:
    """Return the scores of every dev query, by task."""
    results = output / "results" / name
    if not list(results.glob("*/summary.json")):
        command(
            "eval", "--model", model, "--data-dir", data, "--split", "dev", "--tasks", *TASKS, "--output", results
        )  # fmt: skip
    run = read_run(next(results.glob("*/summary.json")).parent)
    return {task: run.scores(task) for task in TASKS}


def train(name: str, seed: int, rows: dict[str, list[Row]], start: Path, output: Path) -> Path:
    folder = output / "runs" / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    for file, triplets in rows.items():
        write(folder / f"{file}.jsonl", triplets)
    recipe = {"name": folder.name, "seed": seed, "start": {"model": str(start)}, "stages": [STAGE]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    command("train", folder / "recipe.yaml", "--data-dir", folder, "--output", folder)
    return folder / "joint"


def mean_over_seeds(runs: Sequence[dict[str, QueryScores]], task: str) -> QueryScores:
    """Return each query's mean over the seeds."""
    first = runs[0][task]
    assert all(run[task].queries == first.queries for run in runs)
    return replace(first, values=np.mean([run[task].values for run in runs], axis=0))


def tables(scores: dict[str, list[dict[str, QueryScores]]]) -> str:
    """Return the scores, and what curated negatives win over random ones, in percent."""
    lines = ["| Stage II with | " + " | ".join(TASKS) + " |", "|---|" + "---|" * len(TASKS)]
    for name, runs in scores.items():
        values = 100 * np.array([[run[task].values.mean() for task in TASKS] for run in runs])
        spread = values.std(axis=0, ddof=1) if len(runs) > 1 else [None] * len(TASKS)
        cells = [
            f"{mean:.2f}" + ("" if std is None else f" ± {std:.2f}")
            for mean, std in zip(values.mean(axis=0), spread, strict=True)
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name in [name for name in CURATED if name in scores]:
        differences = adjusted(
            [
                paired(mean_over_seeds(scores[RANDOM], task), mean_over_seeds(scores[name], task))
                for task in TASKS
            ]
        )
        cells = [
            f"{100 * d.difference:+.2f} ({100 * d.interval[0]:+.2f} to {100 * d.interval[1]:+.2f}, p {d.adjusted:.3f})"
            for d in differences
        ]
        lines.append(f"| {name}, less random | " + " | ".join(cells) + " |")
        for task in TASKS:
            by_seed = [
                100 * (one[task].values.mean() - other[task].values.mean())
                for one, other in zip(scores[name], scores[RANDOM], strict=True)
            ]
            lines.append(
                f"<!-- {name}, less random, {task}, by seed: {', '.join(f'{d:+.2f}' for d in by_seed)} -->"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    data, output = options.data_dir.absolute(), options.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    start = start_model(data, output)
    sets = read_sets(data)
    made = {name: curate(sets, output, start, margin) for name, margin in CURATED.items()}
    rows = next(iter(made.values()))
    assert all([row["query"] for row in rows] == [row["query"] for row in other] for other in made.values())
    scores: dict[str, list[dict[str, QueryScores]]] = {}
    first, *others = CURATED
    order = [(name, seed) for seed in range(options.seeds) for name in (RANDOM, first)]
    order += [(name, seed) for name in others for seed in range(options.seeds)]
    for name, seed in order:
        triplets = by_set(made.get(name, rows), sets, seed, drawn=name == RANDOM)
        model = train(name, seed, triplets, start, output)
        scores.setdefault(name, []).append(evaluate(model.parent.name, model, data, output))
        if name != RANDOM and seed + 1 == options.seeds:
            print(tables(scores), flush=True)
    scores[BEFORE] = [evaluate("start", start, data, output)]
    (output / "negatives.md").write_text(tables(scores) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(exit_code(main))
