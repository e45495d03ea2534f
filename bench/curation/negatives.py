"""Stage II with hard negatives that the curation made against random ones: same rows, same steps, several seeds.

``python -m bench.curation.negatives --data-dir data --output runs/negatives`` prints a table. It resumes
an earlier run where it was stopped.

Stage II starts from a Stage I model, as in the paper: care-mini's document encoder, and a new query encoder that has
learned its space from texts without labels. The labels play the judge: each training row shows one of its labelled
answers, and the judge knows all of them. Negatives are mined by the Stage I model and BM25, or drawn from the documents
of the row's set. nDCG@10 on dev, whose queries and judgements no row has.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from care_accel import DualEncoder
from care_accel.curation.config import TrainData
from care_accel.curation.texts.clean import clean_text, rejection_reason
from care_accel.curation.training_data.triplets import REPORT, TRIPLETS, make_train_data
from care_accel.encoding.loading.sources import Sources
from care_accel.errors import exit_code
from care_accel.eval.data.reading import read_documents, read_judgements, read_queries
from care_accel.eval.scores import QueryScores, read_scores, task_file
from care_accel.eval.statistics.significance import adjust_holm, paired_test
from care_accel.eval.statistics.uncertainty import query_scores
from care_accel.files import read_jsonl
from care_accel.index import ExactIndex
from care_accel.progress import progress_bar
from care_accel.training import train

SETS = ("huatuo-qa", "cmedir")  # those of train/permissive that have a dev set
TASKS = ("retrieval/cmedir", "retrieval/epilepsy-qa", "retrieval/huatuo-qa")
BEFORE, RANDOM = "Stage I alone", "random"
NEGATIVES, DEPTH = 7, 10
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


def write(file: Path, rows: Sequence[Row]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def named(margin: float) -> str:
    return f"curated, margin {margin:g}" if margin else "curated, no margin"


def start_model(data: Path, output: Path) -> Path:
    """Make a Stage I model: care-mini's document encoder, and a new query encoder that has learned its space."""
    recipe = yaml.safe_load((files("care_accel.training") / "recipes" / "care-mini.yaml").read_text("utf-8"))
    align = next(stage for stage in recipe["stages"] if stage["name"] == "align")
    sources = [{"file": source["file"]} for source in align["data"] if "toyhom" not in source["file"]]
    recipe |= {"name": "start", "save_dtype": "float32"}
    recipe["stages"] = [align | SHORT | {"teacher": "care-mini", "epochs": 1.0, "data": sources}]
    file = output / "start.yaml"
    file.write_text(yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False), encoding="utf-8")
    aligned = train(file, data, output / "start")
    mini = DualEncoder.from_pretrained("care-mini")
    model = DualEncoder(Sources("stage-one", aligned.source("query"), mini.source("document")))
    if not (folder := output / "start" / "stage-one").is_dir():
        model.save_pretrained(folder, name="stage-one")
    return folder


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
        known.documents = [text for text in dict.fromkeys(known.documents) if rejection_reason(text) is None]
        found[name] = known
    return found


def curate(sets: dict[str, Known], output: Path, model: Path, margin: float) -> list[Row]:
    """Make triplets with negatives that the labels, as the judge, call none."""
    folder = output / "curation"
    file = folder / f"margin-{margin:g}.jsonl"
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
            margin=margin or None,
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
            progress=progress_bar,
        )
        os.replace(folder / REPORT, file.with_suffix(".json"))
        os.replace(folder / TRIPLETS, file)
    counts = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))["counts"]
    print(named(margin), json.dumps(counts), flush=True)
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
    """Return nDCG@10 of every dev query, by task; what was computed before is read."""
    folder = output / "results" / name
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for task in TASKS:
        file = task_file(folder, task, ".scores.json")
        if not file.is_file():
            score(DualEncoder.from_pretrained(model), task, data / task).write(file)
        found[task] = read_scores(file)
    print(name, *(f"{task} {100 * scores.values.mean():.2f}" for task, scores in found.items()), flush=True)
    return found


def score(model: DualEncoder, task: str, folder: Path) -> QueryScores:
    """Search a set and return the nDCG@10 of each query."""
    documents = read_documents(folder / "corpus.jsonl.gz")
    queries = read_queries(folder / "queries.jsonl.gz")
    grades = read_judgements(folder / "qrels" / "dev.tsv", queries, documents)
    index = ExactIndex(model.width)
    # Half of the time of float32; vectors differ by less than 0.001.
    with torch.autocast("cpu", torch.bfloat16):
        index.add(model.encode_document([f"{title} {text}".strip() for title, text in documents.values()]))
    scores, hits = index.search(model.encode_query([queries[query] for query in grades]), k=DEPTH)
    names = list(documents)
    ranking = {
        query: {names[hit]: value for hit, value in zip(*row, strict=True)}
        for query, *row in zip(grades, hits.tolist(), scores.tolist(), strict=True)
    }
    metric = f"ndcg_at_{DEPTH}"
    values = query_scores(metric, grades, ranking)
    return QueryScores(task, metric, "mean", np.array([values[query] for query in grades]), tuple(grades))


def train_joint(name: str, seed: int, rows: dict[str, list[Row]], start: Path, output: Path) -> Path:
    folder = output / "runs" / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    for file, triplets in rows.items():
        write(folder / f"{file}.jsonl", triplets)
    recipe = {"name": folder.name, "seed": seed, "start": {"model": str(start)}, "stages": [STAGE]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    train(folder / "recipe.yaml", folder, folder)
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
    for name in [name for name in scores if name not in (BEFORE, RANDOM)]:
        differences = adjust_holm(
            [
                paired_test(mean_over_seeds(scores[RANDOM], task), mean_over_seeds(scores[name], task))
                for task in TASKS
            ]
        )
        cells = [
            f"{100 * d.difference:+.2f} ({100 * d.interval[0]:+.2f} to {100 * d.interval[1]:+.2f}, p {d.adjusted:.3f})"
            for d in differences
        ]
        lines.append(f"| {name}, less random | " + " | ".join(cells) + " |")
        by_seed = [
            ", ".join(
                f"{100 * (one[task].values.mean() - other[task].values.mean()):+.2f}"
                for one, other in zip(scores[name], scores[RANDOM], strict=True)
            )
            for task in TASKS
        ]
        lines.append("| by seed | " + " | ".join(by_seed) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--margins", type=float, nargs="+", default=[0.1], help="of train-data; 0 for negatives without one"
    )
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("care_accel").setLevel(logging.INFO)
    data, output = options.data_dir.absolute(), options.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    start = start_model(data, output)
    sets = read_sets(data)
    made = {named(margin): curate(sets, output, start, margin) for margin in options.margins}
    rows = next(iter(made.values()))
    assert all([row["query"] for row in rows] == [row["query"] for row in other] for other in made.values())
    scores: dict[str, list[dict[str, QueryScores]]] = {}
    for seed in range(options.seeds):
        for name in (RANDOM, *made):
            triplets = by_set(made.get(name, rows), sets, seed, drawn=name == RANDOM)
            model = train_joint(name, seed, triplets, start, output)
            scores.setdefault(name, []).append(evaluate(model.parent.name, model, data, output))
        print(tables(scores), flush=True)
    scores = {BEFORE: [evaluate("start", start, data, output)], **scores}
    print(tables(scores))
    (output / "negatives.md").write_text(tables(scores) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(exit_code(main))
