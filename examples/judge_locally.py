"""Let a language model on this machine judge which documents answer your questions.

python examples/judge_locally.py data/retrieval/mine --url http://127.0.0.1:11434/v1 --model qwen3 --output work

The folder has corpus.jsonl and queries.jsonl (docs/curation.md); the address is any endpoint with OpenAI's chat API, such as
Ollama's or vLLM's. Labels are in work/qrels.tsv. Run again, it asks nothing twice. Needs the extra `curate`.
"""

import argparse
from pathlib import Path

import yaml

from care_accel.cli import main as care_accel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:11434/v1")
    parser.add_argument("--model", nargs="+", required=True, help="several judges vote")
    parser.add_argument("--output", type=Path, default=Path("work"))
    parser.add_argument("--pool", type=int, default=10, help="documents judged per question")
    options = parser.parse_args()

    options.output.mkdir(parents=True, exist_ok=True)
    config = {
        "output": str(options.output.resolve()),
        "data": str(options.data.resolve()),
        "candidates": {"retrievers": ["bm25", "care-mini"], "depth": 50, "pool": options.pool},
        # "json" and "text" are for endpoints without structured outputs.
        "judges": [
            {"name": one, "base_url": options.url, "model": one, "answer": "schema"} for one in options.model
        ],
        "vote": {"rule": "unanimous", "cutoff": 4},
    }
    file = options.output / "config.yaml"
    file.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    for step in ("candidates", "judge", "vote"):
        if code := care_accel(["curate", step, str(file)]):
            raise SystemExit(code)


if __name__ == "__main__":
    main()
