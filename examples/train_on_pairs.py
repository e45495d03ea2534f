"""Train the embedded model on your own pairs of question and answer, and save the result as a model folder.

python examples/train_on_pairs.py pairs.csv my-model

The file has the columns `question` and `answer`. Other answers of a batch are the negatives. Needs the extra `train`.
"""

import argparse
import csv
import json
from pathlib import Path

import yaml

from care_accel.training import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=float, default=1.0)
    options = parser.parse_args()

    options.output.mkdir(parents=True, exist_ok=True)
    with options.file.open(encoding="utf-8-sig", newline="") as stream:
        rows = [
            {"query": row["question"], "pos": [row["answer"]], "neg": []} for row in csv.DictReader(stream)
        ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (options.output / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    stage = {
        "name": "joint",  # both encoders, InfoNCE: the paper's Stage II
        "data": [{"file": "pairs.jsonl"}],
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "learning_rate": 5.0e-5,
        "train_embeddings": False,  # rare words keep what the network knew of them
        "frozen_layers": 6,
        "max_query_tokens": 48,
        "max_document_tokens": 96,
    }
    recipe = {"name": options.output.name, "start": {"model": "care-mini"}, "stages": [stage]}
    (options.output / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")

    model = train(options.output / "recipe.yaml", options.output, options.output / "run")
    model.save_pretrained(options.output / "model")
    print(f"care-accel eval --model {options.output / 'model'}")


if __name__ == "__main__":
    main()
