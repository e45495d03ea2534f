import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from care_accel import CareError, DualEncoder
from care_accel.training import load_recipe, train
from care_accel.training.data.rows import read_texts
from care_accel.training.networks import initial_model


@pytest.fixture
def recipe(values, write_recipe):
    def write(role, **fields):
        values["stages"] = [
            {
                "name": "language",
                "method": "language",
                "role": role,
                "data": [{"file": "texts.jsonl"}, {"file": "triplets.jsonl"}],
                "epochs": 30.0,
                "batch_size": 4,
                "learning_rate": 0.01,
                "bf16": False,
                **fields,
            }
        ]
        return write_recipe(values)

    return write


@pytest.mark.parametrize(("role", "other"), [("query", "document"), ("document", "query")])
def test_an_encoder_learns_to_predict_tokens_and_the_other_stays(recipe, data_dir, tmp_path, role, other):
    file = recipe(role)
    before = initial_model(load_recipe(file), data_dir, tmp_path / "initial")
    after = train(file, data_dir, tmp_path / "run")
    history = json.loads((tmp_path / "run/language/trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < 0.85 * losses[0]
    encode = {"query": DualEncoder.encode_query, "document": DualEncoder.encode_document}[other]
    np.testing.assert_array_equal(encode(after, "高血压怎么治"), encode(before, "高血压怎么治"))
    weights = load_file(after.source(role).checkpoint.folder / "model.safetensors")
    assert set(weights) == set(load_file(before.source(role).checkpoint.folder / "model.safetensors"))


def test_a_tokenizer_without_a_mask_is_refused(recipe, values, write_recipe, data_dir, tmp_path):
    model = initial_model(load_recipe(recipe("query")), data_dir, tmp_path / "initial")
    file = model.source("query").checkpoint.folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    del config["mask_token"]
    file.write_text(json.dumps(config))
    again = DualEncoder.from_pretrained(tmp_path / "initial")
    assert again.source("query").checkpoint.load_tokenizer().mask_token is None
    values["start"] = {"model": str(tmp_path / "initial")}
    with pytest.raises(CareError, match="has no mask token"):
        train(write_recipe(values), data_dir, tmp_path / "run")


def test_a_file_may_name_the_fields_whose_texts_are_used(recipe, data_dir, tmp_path, monkeypatch):
    from sentence_transformers import SentenceTransformerTrainer

    seen = {}

    def stop(trainer, *_, **__):
        seen.update({name: table["query"][:] for name, table in trainer.train_dataset.items()})
        raise KeyboardInterrupt

    monkeypatch.setattr(SentenceTransformerTrainer, "train", stop)
    file = recipe("query", data=[{"file": "triplets.jsonl", "fields": ["query"]}])
    with pytest.raises(KeyboardInterrupt):
        train(file, data_dir, tmp_path / "run")
    assert seen == {"0 triplets.jsonl": list(read_texts(data_dir / "triplets.jsonl", ["query"]))}
