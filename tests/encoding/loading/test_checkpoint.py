import json
import shutil

import numpy as np
import pytest
import torch

from care_accel import CareError
from care_accel.encoding.loading.checkpoint import Checkpoint


@pytest.fixture
def folder(tiny_folders, tmp_path):
    return shutil.copytree(tiny_folders / "query_encoder", tmp_path / "encoder")


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def states(checkpoint):
    with torch.no_grad():
        return checkpoint.load_network("float32")(
            input_ids=torch.arange(3, 20)[None]
        ).last_hidden_state.numpy()


def test_the_original_name_of_gte_is_mapped_to_the_built_in_class(folder):
    expected = states(Checkpoint(folder))
    change(
        folder / "config.json",
        model_type="new",
        architectures=["NewModel"],
        auto_map={"AutoModel": "someone/new-impl--modeling.NewModel"},
    )
    checkpoint = Checkpoint(folder)
    assert type(checkpoint.load_network("float32")).__name__ == "GteModel"
    np.testing.assert_allclose(states(checkpoint), expected, atol=1e-6)


def test_its_static_ntk_scaling_is_said_in_transformers_words(folder):
    values = json.loads((folder / "config.json").read_text())
    values.pop("rope_parameters", None)
    values |= {"model_type": "new", "rope_theta": 20000, "rope_scaling": {"type": "ntk", "factor": 8.0}}
    (folder / "config.json").write_text(json.dumps(values))
    network = Checkpoint(folder).load_network("float32")
    head = values["hidden_size"] // values["num_attention_heads"]
    exponents = np.arange(0, head, 2) / head
    expected = 1.0 / (20000 * 8.0) ** exponents / 8.0 ** (2 / head)
    found = next(b for name, b in network.named_buffers() if name.endswith("inv_freq"))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def no_json(folder):
    (folder / "config.json").write_text("{half")


def cut_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def drop_a_weight(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors[next(name for name in tensors if "qkv_proj.weight" in name or "q_proj.weight" in name)]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json: no such file"),
        (no_json, "config.json: cannot be read as JSON"),
        (lambda f: (f / "model.safetensors").unlink(), "no [*].safetensors file"),
        (lambda f: (f / "tokenizer_config.json").unlink(), "no tokenizer_config.json"),
        (shutil.rmtree, "no such folder"),
        (
            lambda f: change(f / "config.json", model_type="tomorrow"),
            "does not support model_type 'tomorrow'",
        ),
        (cut_weights, "weights cannot be loaded"),
        (drop_a_weight, r"\d weights of the network, such as layers\.0"),
    ],
)
def test_what_is_missing_or_broken_is_one_line_and_never_random_weights(folder, damage, words):
    damage(folder)
    with pytest.raises(CareError, match=words) as error:
        Checkpoint(folder).load_network("float32")
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_tokenizer_that_does_not_fit_the_network_is_refused(folder):
    change(folder / "config.json", vocab_size=50)
    with pytest.raises(CareError, match=r"the tokenizer does not match the network.*has 50 embeddings"):
        Checkpoint(folder).load_tokenizer()


def test_a_tokenizer_that_cannot_be_read_is_one_line(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CareError, match="the tokenizer cannot be read") as error:
        Checkpoint(folder).load_tokenizer()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("eos", "pad"), [("高", "'高'"), (None, "'[UNK]'"), ("none", "token id 0")])
def test_without_a_pad_token_another_fills_up_batches_and_is_said_once(folder, caplog, eos, pad):
    from care_accel import DualEncoder

    texts = ["头痛怎么办", "高血压患者应低盐饮食"]
    two = {"query": folder, "document": folder, "runtime": "pytorch"}
    expected = DualEncoder.from_pretrained(**two).encode_query(texts)
    file = folder / "tokenizer_config.json"
    values = json.loads(file.read_text())
    for name in ("pad_token", *(("unk_token", "mask_token") if eos == "none" else ())):
        del values[name]
    if eos == "高":
        values["eos_token"] = eos
    file.write_text(json.dumps(values))
    models = [DualEncoder.from_pretrained(**two) for _ in range(2)]
    for model in models:
        if eos != "高":  # a word that becomes special is split off
            np.testing.assert_allclose(model.encode_query(texts), expected, atol=1e-6)
        np.testing.assert_allclose(
            model.encode_query(texts), [model.encode_query(text) for text in texts], atol=1e-6
        )
    assert np.isfinite(model.encode_query("")).all()
    said = [line for line in caplog.messages if "has no pad token" in line]
    assert len(said) == 1
    assert said[0].endswith(f"is {pad}")


def test_the_fingerprint_follows_weights_configuration_and_tokenizer_only(folder):
    before = Checkpoint(folder).fingerprint
    (folder / "README.md").write_text("a card")
    assert Checkpoint(folder).fingerprint == before
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-2] + b" " + content[-2:])
        assert Checkpoint(folder).fingerprint != before
        (folder / name).write_bytes(content)
    assert Checkpoint(folder).fingerprint == before


def test_an_llm_is_causal_and_a_bert_is_not(tiny_folders):
    assert Checkpoint(tiny_folders / "document_encoder").causal
    assert not Checkpoint(tiny_folders / "query_encoder").causal


def test_layers_that_the_configuration_does_not_know_are_said(tiny_folders, tmp_path, caplog):
    shutil.copytree(tiny_folders / "query_encoder", tmp_path / "q")
    config = json.loads((tmp_path / "q/config.json").read_text())
    (tmp_path / "q/config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    Checkpoint(tmp_path / "q").load_network("float32")
    assert "belong to no layer of config.json" in caplog.text
