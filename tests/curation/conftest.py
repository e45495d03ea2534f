import json
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from care_accel.curation.config import Sts
from care_accel.curation.loading import load_config

SERVER = Path(__file__).parent / "chat_server.py"


@contextmanager
def chat_server(folder, settings):
    """Run a judge's endpoint in a process of its own; gives its address, and what it was asked and said."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "chat.log"
    file = folder / "chat.json"
    file.write_text(
        json.dumps({"log": str(log), "judges": {}, **settings}, ensure_ascii=False), encoding="utf-8"
    )
    with subprocess.Popen(
        [sys.executable, str(SERVER), str(file)], stdout=subprocess.PIPE, text=True
    ) as process:
        port = int(process.stdout.readline())

        def events(kind, **wanted):
            # Whole lines: the process may be writing the next one, or have been killed while it did.
            whole = log.read_bytes().rpartition(b"\n")[0] if log.exists() else b""
            rows = map(json.loads, whole.splitlines())
            return [row for row in rows if row["event"] == kind and wanted.items() <= row.items()]

        try:
            yield SimpleNamespace(url=f"http://127.0.0.1:{port}/v1", events=events, pid=process.pid)
        finally:
            process.terminate()


@pytest.fixture
def serve(tmp_path):
    """Return a function that starts an endpoint for the length of a test."""
    with ExitStack() as stack:
        count = iter(range(100))
        yield lambda **settings: stack.enter_context(chat_server(tmp_path / f"server{next(count)}", settings))


QUERIES = {"q0": "高血压怎么治", "q1": "感冒发热怎么办", "q2": "糖尿病能吃水果吗"}
DOCUMENTS = {
    "d0": "高血压患者应低盐饮食，遵医嘱服用降压药。",
    "d1": "感冒发热要多饮水，必要时用退热药。",
    "d2": "糖尿病患者可以吃低糖水果，要监测血糖。",
    "d3": "骨折后应固定并尽快就医拍片。",
    "d4": "高血压 患者应低盐饮食,遵医嘱服用降压药",
    "d5": "胃炎患者饮食清淡，避免辛辣刺激。",
}
LABELS = {"q0": {"d0": 1, "d3": 0}, "q1": {"d1": 2}, "q2": {"d5": 1}}
TRUTH = {("q0", "d0"): 1, ("q1", "d1"): 1, ("q2", "d2"): 1, ("q0", "d4"): 1}


@pytest.fixture
def workplace(tmp_path):
    """Return a function that writes data and a configuration with some judges, and loads it."""

    def make(judges=(), queries=QUERIES, documents=DOCUMENTS, labels=LABELS, **fields):
        folder = tmp_path / "data"
        (folder / "qrels").mkdir(parents=True, exist_ok=True)
        for name, rows in (("queries", queries), ("corpus", documents)):
            lines = [json.dumps({"_id": key, "text": text}, ensure_ascii=False) for key, text in rows.items()]
            (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        rows = [
            f"{query}\t{document}\t{grade}"
            for query, row in labels.items()
            for document, grade in row.items()
        ]
        (folder / "qrels" / "dev.tsv").write_text(
            "query-id\tcorpus-id\tscore\n" + "\n".join(rows), encoding="utf-8"
        )
        values = {
            "output": "work",
            "data": "data",
            "split": "dev",
            "candidates": {"retrievers": ["bm25"], "depth": 4, "pool": 4},
            "judges": list(judges),
            **fields,
        }
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
        return SimpleNamespace(
            file=file, config=load_config(file), output=tmp_path / "work", data=folder, values=values
        )

    return make


def truth_texts(queries=QUERIES, documents=DOCUMENTS, truth=TRUTH):
    """Return the truth as the server takes it."""
    return {f"{queries[q]}\n{documents[d]}": grade for (q, d), grade in truth.items()}


SENTENCES = [
    f"{name}患者第{i}天能不能{verb}？"
    for i in range(4)
    for name in ("高血压", "糖尿病")
    for verb in ("喝酒", "运动")
]


@pytest.fixture
def sts_settings(tmp_path):
    table, sentences = tmp_path / "synonyms.tsv", tmp_path / "sentences.jsonl"
    table.write_text("# 术语\n高血压\t血压升高\t高血压病\n糖尿病\t消渴症\n病\t疾病\n")
    sentences.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in [*SENTENCES, "没有术语的句子在这里"])
    )
    return Sts(str(table), str(sentences), size=9)
