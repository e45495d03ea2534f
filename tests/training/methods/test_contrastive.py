import pytest
from safetensors.numpy import load_file

from care_accel.training import load_recipe, train
from care_accel.training.networks import initial_model


@pytest.mark.parametrize(("role", "other"), [("query", "document"), ("document", "query")])
def test_one_encoder_is_trained_and_the_other_stays(values, write_recipe, data_dir, tmp_path, role, other):
    values["stages"][0] |= {"method": "contrastive", "role": role, "epochs": 2.0, "widths": [8, 24]}
    recipe = write_recipe(values)
    before = initial_model(load_recipe(recipe), data_dir, tmp_path / "initial")
    after = train(recipe, data_dir, tmp_path / "run")

    def weights(model, which):
        return load_file(model.source(which).checkpoint.folder / "model.safetensors")

    assert all((weights(after, other)[n] == w).all() for n, w in weights(before, other).items())
    assert any((weights(after, role)[n] != w).any() for n, w in weights(before, role).items())


def test_stages_follow_one_another_and_lora_is_merged(values, write_recipe, data_dir, tmp_path):
    (joint,) = values["stages"]
    joint["epochs"] = 1.0
    first = joint | {"name": "document", "method": "contrastive", "role": "document", "lora": {"rank": 4}}
    second = {"name": "aligned", "method": "alignment", "data": joint["data"], "bf16": False, "batch_size": 4}
    third = joint | {"lora": {"rank": 4, "alpha": 8}, "gradient_checkpointing": True}
    values |= {"stages": [first, second, third], "save_dtype": "float16"}
    model = train(write_recipe(values), data_dir, tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["aligned", "document", "joint"]
    stored = {
        name: load_file(tmp_path / "run" / name / "query_encoder/model.safetensors")
        for name in ("aligned", "joint")
    }
    assert {w.dtype.name for w in stored["aligned"].values()} == {"float32"}
    assert {w.dtype.name for w in stored["joint"].values()} == {"float16"}
    assert not list((tmp_path / "run").rglob("adapter_config.json"))
    assert model.encode_query("头痛").shape == (24,)
