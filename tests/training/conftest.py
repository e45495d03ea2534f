import json

import pytest
import yaml

ROWS = [
    ("高血压怎么治", "应低盐饮食，规律服用降压药。"),
    ("糖尿病吃什么", "要控制主食，监测血糖。"),
    ("感冒发热怎么办", "多饮水休息，必要时退热。"),
    ("胃炎怎么养", "饮食清淡，避免辛辣刺激。"),
    ("骨折怎么处理", "先固定，再尽快拍片就医。"),
    ("失眠怎么调理", "规律作息，睡前少看手机。"),
    ("贫血补什么", "补充铁剂，多吃红肉。"),
    ("近视怎么防", "多户外活动，注意用眼距离。"),
]


@pytest.fixture
def data_dir(tmp_path):
    """Return a folder with a training file of every kind."""
    folder = tmp_path / "data"
    folder.mkdir()
    triplets = [{"query": q, "pos": [d], "neg": [ROWS[i - 1][1]]} for i, (q, d) in enumerate(ROWS)]
    pairs = [{"sentence1": q, "sentence2": q + "呢", "score": 1} for q, _ in ROWS]
    pairs.append({"sentence1": "头痛", "sentence2": "骨折", "score": 0})
    texts = [{"text": f"{q}？{d}"} for q, d in ROWS]
    for name, rows in (("triplets", triplets), ("pairs", pairs), ("texts", texts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    return folder


@pytest.fixture
def values():
    """Return the values of a recipe that trains tiny networks within seconds."""
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    return {
        "name": "tiny",
        "start": {
            "width": 24,
            "max_tokens": 64,
            "tokenizer": {"vocab_size": 200, "alphabet": 180, "files": ["triplets.jsonl", "pairs.jsonl"]},
            "query": {"network": {"model_type": "gte", **size}},
            "document": {
                "network": {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 16, **size}
            },
        },
        "stages": [
            {
                "name": "joint",
                "data": [
                    {"file": "triplets.jsonl"},
                    {"file": "pairs.jsonl", "kind": "pairs"},
                    {"file": "texts.jsonl", "kind": "texts"},
                ],
                "temperature": 0.05,
                "negatives": 1,
                "epochs": 6.0,
                "batch_size": 4,
                "learning_rate": 0.003,
                "max_query_tokens": 16,
                "max_document_tokens": 16,
                "bf16": False,
                "save_steps": 5,
            }
        ],
    }


@pytest.fixture
def write_recipe(tmp_path):
    """Return a function that writes a recipe and returns its file."""

    def write(values):
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
        return file

    return write
