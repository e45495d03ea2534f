import numpy as np
import pytest
import torch

from care_accel import CareError, DualEncoder
from care_accel.training import load_recipe, train
from care_accel.training.data.rows import read_texts
from care_accel.training.networks import initial_model


@pytest.fixture
def recipe(values, write_recipe):
    values["start"]["bag_of_words"] = False
    values["stages"] = [
        {
            "name": "aligned",
            "method": "alignment",
            "data": [{"file": "triplets.jsonl"}, {"file": "texts.jsonl"}],
            "temperature": 0.1,
            "epochs": 20.0,
            "batch_size": 4,
            "learning_rate": 0.003,
            "bf16": False,
        }
    ]
    return write_recipe(values)


def distance(model, texts):
    difference = model.encode_query(texts) - model.encode_document(texts)
    return float((difference**2).sum(axis=1).mean())


def test_the_query_encoder_comes_close_to_the_frozen_document_encoder(recipe, data_dir, tmp_path):
    before = initial_model(load_recipe(recipe), data_dir, tmp_path / "initial")
    after = train(recipe, data_dir, tmp_path / "run")
    texts = list(read_texts(data_dir / "texts.jsonl"))
    assert distance(after, texts) < 0.5 * distance(before, texts)
    assert after.source("document").spec == before.source("document").spec
    np.testing.assert_allclose(after.encode_document(texts), before.encode_document(texts), atol=1e-6)
    assert DualEncoder.from_pretrained(tmp_path / "run/aligned").revision("query") == after.revision("query")


def test_document_vectors_are_computed_once(recipe, data_dir, tmp_path, monkeypatch):
    from sentence_transformers import SentenceTransformerTrainer

    train_method = SentenceTransformerTrainer.train

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(SentenceTransformerTrainer, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data_dir, tmp_path / "run")
    monkeypatch.setattr(SentenceTransformerTrainer, "train", train_method)
    monkeypatch.setattr(DualEncoder, "encode_document", stop)
    train(recipe, data_dir, tmp_path / "run")


def test_the_query_encoder_may_be_made_of_layers_of_the_document_encoder(
    recipe, values, write_recipe, data_dir, tmp_path
):
    values["start"]["document"]["network"]["num_hidden_layers"] = 3
    values["stages"][0] |= {"layers": [0, 2], "epochs": 1.0, "train_embeddings": False}
    before = initial_model(load_recipe(write_recipe(values)), data_dir, tmp_path / "initial")
    after = train(write_recipe(values), data_dir, tmp_path / "run")
    made = after.source("query").checkpoint
    assert made.config.num_hidden_layers == 2
    ours, theirs = made.load_network("float32"), before.source("document").checkpoint.load_network("float32")
    assert torch.equal(ours.get_input_embeddings().weight, theirs.get_input_embeddings().weight)
    assert after.spec("query").pooling == before.spec("document").pooling
    assert after.spec("query").prompts == before.spec("query").prompts


def test_a_layer_that_the_document_encoder_lacks_is_one_line(
    recipe, values, write_recipe, data_dir, tmp_path
):
    values["stages"][0]["layers"] = [0, 5]
    with pytest.raises(CareError, match="layers has 5, but the document encoder's are 0 to 0"):
        train(write_recipe(values), data_dir, tmp_path / "run")


def test_queries_clauses_and_the_texts_of_other_fields_are_chosen_by_the_recipe(
    recipe, values, write_recipe, data_dir, tmp_path, monkeypatch
):
    asked = []

    def teacher(stage, model):
        return lambda texts: asked.extend(texts) or model.encode_document(texts)

    monkeypatch.setattr("care_accel.training.methods.alignment.load_teacher", teacher)
    values["stages"][0] |= {
        "data": [
            {"file": "triplets.jsonl", "fields": ["query"]},
            {"file": "texts.jsonl", "clauses": True},
        ],
        "epochs": 1.0,
    }
    train(write_recipe(values), data_dir, tmp_path / "run")
    queries, others = asked[:8], asked[8:]
    assert queries == list(read_texts(data_dir / "triplets.jsonl", ["query"]))
    assert {"高血压怎么治？应低盐饮食，规律服用降压药。", "高血压怎么治", "规律服用降压药"} <= set(others)


def test_a_file_without_the_named_fields_is_refused_before_training(
    recipe, values, write_recipe, data_dir, tmp_path
):
    values["stages"][0]["data"] = [{"file": "texts.jsonl", "fields": ["question"]}]
    with pytest.raises(CareError, match="no row can be used as text"):
        train(write_recipe(values), data_dir, tmp_path / "run")
