"""One export of the tiny networks that many tests read, and a small retrieval set of one's own."""

import json

import pytest

from care_accel import DualEncoder

DOCUMENTS = {
    "d1": "高血压患者应低盐饮食，遵医嘱服用降压药。",
    "d2": "糖尿病患者要控制主食，监测血糖。",
    "d3": "感冒发热多饮水休息。",
    "d4": "骨折后应固定并尽快就医拍片。",
    "d5": "胃炎患者饮食清淡",
    "d6": "头痛",
}
QUERIES = {"q1": "高血压怎么治", "q2": "血糖高吃什么？", "q3": "感冒发热怎么办？" * 6}
RELEVANT = {"q1": "d1", "q2": "d2", "q3": "d3"}


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    place = folder / "retrieval" / "own"
    (place / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", DOCUMENTS), ("queries", QUERIES)):
        lines = [json.dumps({"_id": key, "text": text}, ensure_ascii=False) for key, text in rows.items()]
        (place / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (place / "qrels" / "test.tsv").write_text("".join(f"{q}\t{d}\t1\n" for q, d in RELEVANT.items()))
    return folder


@pytest.fixture(scope="session")
def dev(data_dir):
    from care_accel.export import DevSet

    return DevSet.read(data_dir, None, None)


@pytest.fixture(scope="session")
def original(tiny_folders):
    return DualEncoder.from_pretrained(
        query=tiny_folders / "query_encoder",
        document=tiny_folders / "document_encoder",
        preset="care",
        width=24,
        device="cpu",
        runtime="pytorch",
    )


@pytest.fixture(scope="session")
def exported(original, dev, tmp_path_factory):
    """Return the folder of an export for ONNX Runtime, of both roles."""
    from care_accel.export import export

    folder = tmp_path_factory.mktemp("exported") / "pair"
    export(original, folder, runtime="onnx", roles=("query", "document"), dev=dev)
    return folder
