import numpy as np
import pytest

from care_accel import DualEncoder
from care_accel.training import train
from care_accel.training.data.mining import mine_negatives
from care_accel.training.recipe import DataFile, Mining

ROWS = [
    ("高血压怎么治", "高血压患者应低盐饮食", []),
    ("高血压怎么治", "规律服用降压药", []),
    ("糖尿病吃什么", "糖尿病要控制主食", ["胃炎饮食清淡"]),
    ("感冒怎么办", "感冒多饮水休息", []),
    ("骨折怎么办", "骨折后应固定", []),
]
SOURCE = DataFile("triplets.jsonl")


@pytest.mark.parametrize("margin", [0.0, 0.3, 1.0])
def test_a_negative_is_no_answer_of_its_query_and_scores_the_margin_below_every_answer(
    tiny_model, tmp_path, margin
):
    mined = mine_negatives(ROWS, tiny_model, SOURCE, Mining(margin=margin), tmp_path / "mined")
    assert [row[:2] for row in mined] == [row[:2] for row in ROWS]
    documents = {text for _, positive, hard in ROWS for text in (positive, *hard)}
    for query, _, hard in mined:
        vector = tiny_model.encode_query(query)
        answers = {positive for q, positive, _ in ROWS if q == query}
        lowest = min(float(tiny_model.encode_document(a) @ vector) for a in answers)
        given = next(h for q, _, h in ROWS if q == query)
        own = [text for text in hard if text not in given]
        scores = [float(tiny_model.encode_document(text) @ vector) for text in own]
        assert set(own) <= documents - answers
        assert all(score <= lowest - margin * abs(lowest) + 1e-5 for score in scores)
        assert scores == sorted(scores, reverse=True)
        # Nothing that may stay is left out: all documents are within the depth.
        rest = documents - answers - set(hard)
        limit = lowest - margin * abs(lowest)
        assert all(float(tiny_model.encode_document(text) @ vector) > limit - 1e-5 for text in rest)


def test_labelled_negatives_come_first_and_the_count_holds(tiny_model, tmp_path):
    mined = mine_negatives(ROWS, tiny_model, SOURCE, Mining(margin=0.0, count=1), tmp_path / "mined")
    assert mined[2][2][0] == "胃炎饮食清淡"
    assert all(len(hard) <= len(row[2]) + 1 for row, (_, _, hard) in zip(ROWS, mined, strict=True))


def test_what_was_mined_is_read_again(tiny_model, tmp_path, monkeypatch):
    first = mine_negatives(ROWS, tiny_model, SOURCE, Mining(), tmp_path / "mined")
    monkeypatch.setattr(DualEncoder, "encode_query", None)
    assert mine_negatives(ROWS, tiny_model, SOURCE, Mining(), tmp_path / "mined") == first


def test_a_stage_trains_with_what_it_mined(values, write_recipe, data_dir, tmp_path, monkeypatch):
    from sentence_transformers import SentenceTransformerTrainer

    seen = []
    inner = SentenceTransformerTrainer.train

    def look(trainer, *arguments, **options):
        seen.append({name: table.column_names for name, table in trainer.train_dataset.items()})
        return inner(trainer, *arguments, **options)

    monkeypatch.setattr(SentenceTransformerTrainer, "train", look)
    values["stages"][0] |= {"mining": {"margin": 0.0}, "negatives": 3, "epochs": 1.0}
    model = train(write_recipe(values), data_dir, tmp_path / "run")
    assert seen[0]["0 triplets.jsonl"] == ["query", "positive", "negative_1", "negative_2", "negative_3"]
    assert seen[0]["1 pairs.jsonl"] == ["query", "positive"]
    assert np.isfinite(model.encode_query("头痛")).all()
