"""Many real texts cleaned, de-duplicated and diversified: seconds, memory, and how many stay.

``python -m bench.curation.scale --data-dir ../shared/data --count 100000`` prints JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from care_accel import DualEncoder
from care_accel.curation.texts.clean import clean_text, rejection_reason
from care_accel.curation.texts.diversity import select_diverse
from care_accel.curation.texts.duplicates import find_exact_duplicates, find_near_duplicates
from care_accel.errors import exit_code
from care_accel.files import read_jsonl
from care_accel.progress import progress_bar

FOLDERS = ("unlabelled", "train/permissive", "sts")


def read(data: Path, count: int) -> Iterator[str]:
    """Yield the first texts of the training files, of every field."""
    left = count
    for folder in FOLDERS:
        files = sorted((data / folder).rglob("*.jsonl.gz"))
        for file in files if folder != "sts" else [f for f in files if f.name.startswith("train")]:
            for _, row in read_jsonl(file):
                for value in row.values():
                    for text in value if isinstance(value, list) else [value]:
                        if isinstance(text, str) and left:
                            left -= 1
                            yield text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=5000)
    parser.add_argument("--neighbours", type=int, default=5)
    parser.add_argument("--similarity", type=float, nargs="+", default=[0.9, 0.8])
    options = parser.parse_args()
    texts = list(read(options.data_dir, options.count))
    facts: dict[str, object] = {"texts": len(texts), "characters": sum(map(len, texts))}
    seconds: dict[str, float] = {}
    started = time.perf_counter()

    def took(name: str) -> None:
        nonlocal started
        now = time.perf_counter()
        seconds[name], started = round(now - started, 1), now

    texts = [text for text in map(clean_text, texts) if rejection_reason(text) is None]
    facts["usable"] = len(texts)
    took("clean")
    texts = [texts[i] for i in np.flatnonzero(find_exact_duplicates(texts) < 0)]
    facts["without exact duplicates"] = len(texts)
    took("exact duplicates")
    near = find_near_duplicates(texts, progress=progress_bar)
    texts = [texts[i] for i in np.flatnonzero(near.of < 0)]
    facts["without near duplicates"] = len(texts)
    took("near duplicates")
    facts["megabytes before the model"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    vectors = DualEncoder.from_pretrained("care-mini").encode_query(texts, show_progress=sys.stderr.isatty())
    took("encode")
    numbers = {"seeds": options.seeds, "neighbours": options.neighbours}
    for similarity in options.similarity:
        selected = select_diverse(vectors, **numbers, similarity=similarity, progress=progress_bar)
        facts[f"at most {options.neighbours} neighbours above {similarity:g}"] = int(selected.sum())
        took(f"diversity above {similarity:g}")
    facts["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({**facts, "seconds": seconds}, indent=1))


if __name__ == "__main__":
    sys.exit(exit_code(main))
