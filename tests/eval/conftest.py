import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

DOCUMENTS = {
    "d0": "高血压患者应低盐饮食，遵医嘱服用降压药。",
    "d1": "糖尿病患者要控制主食，监测血糖。",
    "d2": "感冒多饮水休息，发热时可用退热药。",
    "d3": "胃炎患者饮食清淡，避免辛辣刺激。",
    "d4": "骨折后应固定，并尽快就医拍片。",
}
QUERIES = {"q0": "高血压怎么治", "q1": "血糖高吃什么", "q2": "感冒发热怎么办"}
RERANKING = [
    {"query": "胃炎吃什么", "positive": [DOCUMENTS["d3"]], "negative": [DOCUMENTS["d1"], DOCUMENTS["d4"]]},
    {"query": "骨折怎么办", "positive": [DOCUMENTS["d4"]], "negative": [DOCUMENTS["d3"], DOCUMENTS["d0"]]},
]
PAIRS = [
    {"sentence1": "头痛怎么办", "sentence2": "头疼怎么办", "score": 5.0},
    {"sentence1": "头痛怎么办", "sentence2": "肚子痛怎么办", "score": 1.5},
    {"sentence1": "发热三天", "sentence2": "发烧三天", "score": 4.5},
    {"sentence1": "发热三天", "sentence2": "咳嗽三天", "score": 1.0},
]


def write_rows(file: Path, rows: list) -> None:
    """Write JSON lines, packed if the name says so."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    file.write_bytes(gzip.compress(text) if file.suffix == ".gz" else text)


@pytest.fixture
def data_dir(tmp_path):
    """Return a data folder with one set a kind, split ``test``, packed and plain files mixed."""
    folder = tmp_path / "data"
    retrieval = folder / "retrieval" / "tiny"
    write_rows(
        retrieval / "corpus.jsonl.gz", [{"_id": i, "title": "", "text": t} for i, t in DOCUMENTS.items()]
    )
    write_rows(retrieval / "queries.jsonl", [{"_id": i, "text": t} for i, t in QUERIES.items()])
    (retrieval / "qrels").mkdir()
    (retrieval / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq0\td0\t1\nq1\td1\t2\nq1\td3\t1\nq2\td2\t1\n", encoding="utf-8"
    )
    write_rows(folder / "reranking" / "tiny" / "test.jsonl.gz", RERANKING)
    write_rows(folder / "sts" / "tiny" / "test.jsonl", PAIRS)
    return folder


README = """---
configs:
{}---
"""
CONFIG = "- config_name: {0}\n  data_files:\n  - split: {1}\n    path: {0}/{1}-*\n"


def parquet_rows(file: Path, rows: list) -> None:
    """Write a Parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), file)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Return a hub cache of the test's own, laid out as the real one; nothing is downloaded.

    ``add`` puts a data set into it, ``ranking`` returns the configurations of one.
    """
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "prepared")

    def add(repository: str, revision: str, split: str, configs: dict) -> Path:
        """Add a data set of Parquet files by configuration; return its folder in the cache."""
        root = cache / f"datasets--{repository.replace('/', '--')}"
        snapshot = root / "snapshots" / revision
        (root / "refs").mkdir(parents=True, exist_ok=True)
        (root / "refs" / "main").write_text(revision)
        for name, rows in configs.items():
            file = f"{name}/{split}-00000-of-00001.parquet"
            blob = root / "blobs" / f"{name}{revision}"
            parquet_rows(blob, rows)
            (snapshot / name).mkdir(parents=True, exist_ok=True)
            (snapshot / file).symlink_to(blob)
        (snapshot / "README.md").write_text(README.format("".join(CONFIG.format(n, split) for n in configs)))
        return root

    return SimpleNamespace(add=add, ranking=ranking_configs, folder=cache)


def ranking_configs(candidates: dict | None = None) -> dict:
    """Return the tiny retrieval set as configurations of mteb, integers as ids."""
    configs = {
        "corpus": [{"_id": i, "title": "", "text": text} for i, text in enumerate(DOCUMENTS.values())],
        "queries": [{"_id": 10 + i, "text": text} for i, text in enumerate(QUERIES.values())],
        "default": [
            {"query-id": q, "corpus-id": d, "score": s}
            for q, d, s in ((10, 0, 1), (11, 1, 2), (11, 3, 1), (12, 2, 1))
        ],
    }
    if candidates is not None:
        configs["top_ranked"] = [{"query-id": q, "corpus-ids": d} for q, d in candidates.items()]
    return configs
