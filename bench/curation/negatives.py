"""Stage II with hard negatives that the curation made against random ones: same rows, same steps.

``python bench/curation/negatives.py --data-dir ../shared/data --output /tmp/negatives``. The labels play the judge: each
training row shows one of its labelled answers, and the judge knows all of them. From the embedded model; nDCG@10 on
the retrieval sets' dev split, whose queries and judgements no row has.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

import yaml

from care_accel.curation.clean import clean_text
from care_accel.curation.config import TrainData
from care_accel.curation.steps import shown
from care_accel.curation.train_data import TRIPLETS, make_train_data
from care_accel.errors import exit_code
from care_accel.files import read_jsonl

SETS = ("huatuo-qa", "toyhom-qa", "cmedir")
TASKS = ("retrieval/cmedir", "retrieval/epilepsy-qa", "retrieval/huatuo-qa")
NEGATIVES = 7
STAGE = {
    "method": "joint",
    "temperature": 0.05,
    "negatives": 3,
    "epochs": 1.0,
    "batch_size": 128,
    "learning_rate": 3.0e-4,
    "weight_decay": 0.01,
    "max_query_tokens": 32,
    "max_document_tokens": 48,
    "save_steps": 100,
}


def write(file: Path, rows: list[dict[str, object]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def command(verb: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "care_accel", verb, *map(str, arguments)], check=True)


def make_rows(data: Path, output: Path) -> list[dict[str, list[str]]]:
    """Make curated triplets from one label a row, judged by all labels."""
    rng = random.Random(0)
    truth: dict[str, set[str]] = {}
    questions: list[dict[str, object]] = []
    documents: list[dict[str, object]] = []
    for name in SETS:
        for _, row in read_jsonl(data / "train" / "permissive" / f"{name}.jsonl.gz"):
            truth.setdefault(clean_text(row["query"]), set()).update(map(clean_text, row["pos"]))
            questions.append({"query": row["query"], "pos": [rng.choice(row["pos"])]})
            documents += [{"text": text} for text in (*row["pos"], *row["neg"])]
    write(output / "questions.jsonl", questions)
    write(output / "documents.jsonl", documents)
    texts = [str(output / "questions.jsonl"), str(output / "documents.jsonl")]
    settings = TrainData(texts, seeds=2000, neighbours=5, similarity=0.9, negatives=NEGATIVES)
    report = make_train_data(
        settings,
        output,
        lambda pairs: [text in truth.get(query, ()) for query, text in pairs],
        progress=shown,
    )
    print(json.dumps(report["counts"], indent=1))
    return [row for _, row in read_jsonl(output / TRIPLETS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=2560)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    rows = make_rows(options.data_dir, options.output)
    rng = random.Random(1)
    rng.shuffle(rows)
    rows = [row for row in rows if len(row["neg"]) == NEGATIVES][: options.rows]
    documents = sorted({text for row in rows for text in (*row["pos"], *row["neg"])})
    drawn = []
    for row in rows:
        negatives: list[str] = []
        while len(negatives) < NEGATIVES:
            if (text := rng.choice(documents)) not in row["pos"] and text not in negatives:
                negatives.append(text)
        drawn.append({**row, "neg": negatives})
    models = {"before": "care-mini"}
    for name, triplets in (("random", drawn), ("curated", rows)):
        write(options.output / f"{name}.jsonl", triplets)
        recipe = options.output / f"{name}.yaml"
        stage = {"name": "joint", **STAGE, "data": [{"file": f"{name}.jsonl"}]}
        recipe.write_text(
            yaml.safe_dump({"name": name, "seed": 0, "start": {"model": "care-mini"}, "stages": [stage]})
        )
        command("train", recipe, "--data-dir", options.output, "--output", options.output / "runs" / name)
        models[name] = str(options.output / "runs" / name / "joint")
    print("| negatives | " + " | ".join(TASKS) + " |\n|---|" + "---|" * len(TASKS))
    for name, model in models.items():
        results = options.output / "results" / name
        which = ["--data-dir", options.data_dir, "--split", "dev", "--tasks", *TASKS]
        command("eval", "--model", model, *which, "--output", results)
        summary = json.loads(next(results.glob("*/summary.json")).read_text(encoding="utf-8"))
        scores = [f"{100 * summary['tasks'][task]['main_score']:.2f}" for task in TASKS]
        print(f"| {name} | " + " | ".join(scores) + " |")
    written = [next((options.output / "results" / name).iterdir()) for name in ("random", "curated")]
    command("compare", *written)


if __name__ == "__main__":
    sys.exit(exit_code(main))
