"""A model that is loaded once, and collections of some documents."""

import numpy as np
import pytest

from care_accel import Collection, DualEncoder

WORDS = ["高血压", "糖尿病", "感冒", "儿童发热", "胃炎", "骨折", "头痛", "咳嗽三天", "失眠", "过敏性鼻炎"]


@pytest.fixture(scope="session")
def model():
    return DualEncoder.from_pretrained("care-mini")


@pytest.fixture
def rows():
    return [
        {
            "id": f"d{i}",
            "text": f"{word}怎么治疗，第{i}条",
            "department": ["儿科", "内科"][i % 2],
            "year": 2000 + i,
        }
        for i, word in enumerate(WORDS)
    ]


@pytest.fixture
def collection(model, rows, tmp_path):
    made = Collection.create(tmp_path / "collection", model)
    made.upsert(rows)
    return made


@pytest.fixture(scope="session")
def brute_force(model):
    """Return a function that ranks rows for a query in float64: (id, score), equal scores by id."""
    known = {}

    def encoded(text):
        if text not in known:
            known[text] = model.encode_document([text])[0]
        return known[text]

    def rank(rows, query, k):
        vector = model.encode_query([query])[0].astype(np.float64)
        scored = [
            (
                row["id"],
                float(encoded(f"{row.get('title') or ''} {row['text']}".strip()).astype(np.float64) @ vector),
            )
            for row in rows
        ]
        return sorted(scored, key=lambda hit: (-np.float32(hit[1]), hit[0]))[:k]

    return rank
