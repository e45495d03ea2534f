"""Open documents and answer one query: ``python -m bench.collection.opening ENGINE FOLDER`` prints what stays in memory, as JSON.

A process of its own, because what a process has in memory says nothing of one of its objects.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.collection.by_hand import ByHand, K


def collection(folder: Path, query: Any) -> Any:
    from care_accel import Collection

    opened = Collection.open(folder / "collection", index_dir=folder / "index")
    return opened, opened.search_vectors(query, K)[0]


def by_hand(folder: Path, query: Any, *, mapped: bool = False) -> Any:
    opened = ByHand.open(folder / "by-hand", mapped=mapped)
    return opened, opened.search(query)


OPENERS: dict[str, Callable[[Path, Any], Any]] = {
    "care_accel": collection,
    "faiss and SQLite": by_hand,
    "faiss and SQLite, mapped": lambda folder, query: by_hand(folder, query, mapped=True),
}


def resident() -> dict[str, int]:
    """Return the bytes that this process has in memory: its own, and of mapped files."""
    status = Path("/proc/self/status").read_text()
    found = {name: int(re.search(rf"^Rss{name}:\s+(\d+)", status, re.M)[1]) for name in ("Anon", "File")}
    return {"own": 1024 * found["Anon"], "mapped": 1024 * found["File"]}


def main(engine: str, folder: Path) -> None:
    query = np.load(folder / "query.npy")
    if engine == "care_accel":  # loads what belongs to no documents
        import lance  # noqa: F401

        from care_accel import Collection, ExactIndex

        assert Collection
        ExactIndex(4).search(np.ones((1, 4), np.float32))
    else:
        import faiss  # noqa: F401
    before = resident()
    kept = OPENERS[engine](folder, query)
    after = resident()
    assert kept
    print(json.dumps({name: after[name] - before[name] for name in after}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
