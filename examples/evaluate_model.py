"""Evaluate a model beside BM25, on your own data or on the embedded benchmark.

python examples/evaluate_model.py --model my-pair --data-dir data --split dev

The model is a folder, a hub name or "care-mini"; docs/evaluation.md has the layout of a data folder. Needs the extra `eval`.
"""

import argparse
from pathlib import Path

from care_accel import DualEncoder
from care_accel.eval import as_mteb, evaluate, folder_tasks
from care_accel.eval.baselines import BM25Model
from care_accel.eval.command import DEMO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="care-mini")
    parser.add_argument("--data-dir", type=Path, default=DEMO)
    parser.add_argument("--split", default="test")
    parser.add_argument("--output", type=Path, default=Path("results"))
    options = parser.parse_args()

    model = DualEncoder.from_pretrained(options.model)
    model.explain()  # what runs where, and why
    tasks, _ = folder_tasks(options.data_dir, options.split)
    summaries = {one.name: evaluate(one, tasks, options.output) for one in (as_mteb(model), BM25Model())}
    for task in tasks:
        name = task.metadata.name
        for model_name, summary in summaries.items():
            if found := summary["tasks"].get(name):  # BM25 has no score for pairs of sentences
                low, high = found["interval"]
                print(
                    f"{name}: {found['main_metric']} of {model_name} {100 * found['main_score']:.1f} "
                    f"({100 * low:.1f} to {100 * high:.1f})"
                )


if __name__ == "__main__":
    main()
