"""Weights read without PyTorch against those that transformers loads."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModel

from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.loading.int8_weights import save_int8
from care_accel.encoding.loading.plain_config import DEFAULTS, plain_values
from care_accel.encoding.loading.weights import read_weights, shapes

HEADS = {
    "bert": "BertForMaskedLM",
    "roberta": "RobertaForMaskedLM",
    "xlm-roberta": "XLMRobertaForMaskedLM",
    "gte": "GteForMaskedLM",
    "qwen3": "Qwen3ForCausalLM",
}
DTYPES = ("float32", "float16", "bfloat16")


def config_of(kind, **others):
    sizes = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 20, "max_position_embeddings": 24, "pad_token_id": 1}
    if kind == "qwen3":
        sizes |= {"num_key_value_heads": 2, "head_dim": 6}
    return CONFIG_MAPPING[kind](**sizes | others)


def save(folder, kind, dtype="float32", head=False, shards=None, **others):
    torch.manual_seed(0)
    config = config_of(kind, **others)
    made = getattr(transformers, HEADS[kind])(config) if head else AutoModel.from_config(config)
    with torch.no_grad():
        for weights in made.parameters():  # biases of zero and norms of one would hide an exchange
            weights.add_(torch.randn_like(weights))
    made.to(getattr(torch, dtype)).save_pretrained(folder, **({"max_shard_size": shards} if shards else {}))
    (folder / "tokenizer_config.json").write_text("{}")
    return Checkpoint(folder)


def assert_the_same(checkpoint):
    found = checkpoint.read_weights()
    assert found is not None
    expected = checkpoint.load_network("float32").state_dict()
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert values.dtype == np.float32, name
        assert values.flags.c_contiguous, name
        assert values.flags.aligned, name
        assert np.array_equal(values, expected[name].numpy()), name


@pytest.mark.parametrize("head", [False, True], ids=["bare", "with a head"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", HEADS)
def test_weights_are_those_of_transformers(tmp_path, kind, dtype, head):
    assert_the_same(save(tmp_path, kind, dtype, head))


@pytest.mark.parametrize("kind", HEADS)
def test_shards_are_read(tmp_path, kind):
    checkpoint = save(tmp_path, kind, "bfloat16", shards="3KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_the_same(checkpoint)


@pytest.mark.parametrize("kind", HEADS)
def test_weights_in_int8_are_read(tmp_path, kind):
    checkpoint = save(tmp_path, kind)
    weights = checkpoint.load_network("float32").state_dict()
    (tmp_path / "model.safetensors").unlink()
    save_int8({name: values.numpy() for name, values in weights.items()}, tmp_path)
    assert_the_same(Checkpoint(tmp_path))


def rewrite(folder, rename):
    tensors = load_file(folder / "model.safetensors")
    tensors = {rename(name): values.clone() for name, values in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("kind", ["bert", "gte"])
def test_old_names_of_norms_are_read(tmp_path, kind):
    checkpoint = save(tmp_path, kind)

    def old(name):
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    rewrite(tmp_path, old)
    assert_the_same(checkpoint)


def test_an_original_gte_checkpoint_is_read(tmp_path):
    checkpoint = save(tmp_path, "gte")
    rewrite(tmp_path, lambda name: f"new.{name}")
    config = tmp_path / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"model_type": "new", "architectures": ["NewModel"]}))
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.settings["model_type"] == "gte"
    assert_the_same(checkpoint)


def test_gte_names_of_transformers_are_read(tmp_path):
    checkpoint = save(tmp_path, "gte")
    weights = checkpoint.load_network("float32").state_dict()
    save_file({n: w.clone() for n, w in weights.items()}, tmp_path / "model.safetensors")
    assert_the_same(checkpoint)


@pytest.mark.parametrize(("kind", "types"), [("gte", 0), ("gte", 3), ("bert", 1)])
def test_other_numbers_of_token_types_are_read(tmp_path, kind, types):
    assert_the_same(save(tmp_path, kind, type_vocab_size=types))


def test_biases_of_attention_are_read(tmp_path):
    assert_the_same(save(tmp_path, "qwen3", attention_bias=True))


@pytest.mark.parametrize("kind", HEADS)
def test_names_and_shapes_are_those_of_transformers(kind):
    config = config_of(kind)
    with torch.device("meta"):
        network = AutoModel.from_config(config)
    expected = {
        name: tuple(values.shape)
        for name, values in network.state_dict().items()
        if not name.startswith("pooler.")
    }
    assert shapes(plain_values(config.to_dict() | {"model_type": kind})) == expected
    assert kind in DEFAULTS


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    tensors = {name: values.contiguous() for name, values in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def first(tensors, words):
    return next(name for name in tensors if words in name)


def one_layer_more(tensors):
    tensors |= {name.replace("layer.1", "layer.2"): w.clone() for name, w in tensors.items()}


def twice(tensors):
    tensors |= {f"bert.{name}": w.clone() for name, w in tensors.items()}


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop(first(tensors, "query.bias")),
        lambda tensors: tensors.update({first(tensors, "query.bias"): torch.zeros(3)}),
        lambda tensors: tensors.update({n: w.double() for n, w in tensors.items()}),
        lambda tensors: tensors.update({first(tensors, "word_"): torch.zeros(30, 16, dtype=torch.int8)}),
        one_layer_more,
        twice,
        lambda tensors: (
            tensors.update({n: tensors.pop(n) for n in [*tensors]} and {"x": torch.zeros(1)})
            or [tensors.update({f"encoder.{n}": tensors.pop(n)}) for n in [*tensors]]
        ),
    ],
    ids=["missing", "shape", "float64", "int8 without scales", "extra layer", "twice", "other names"],
)
def test_what_is_not_sure_is_left_to_transformers(tmp_path, change):
    checkpoint = save(tmp_path, "bert")
    assert checkpoint.read_weights() is not None
    edit(tmp_path, change)
    assert checkpoint.read_weights() is None


def test_broken_files_are_left_to_transformers(tmp_path):
    checkpoint = save(tmp_path / "whole", "bert")
    file = tmp_path / "whole" / "model.safetensors"
    content = file.read_bytes()
    for broken in (b"", content[:5], content[:100], content[:-10], b"\xff" * 100, content + b"0"):
        file.write_bytes(broken)
        assert checkpoint.read_weights() is None
    sharded = save(tmp_path / "shards", "bert", shards="3KB")
    assert sharded.read_weights() is not None
    index = tmp_path / "shards" / "model.safetensors.index.json"
    listed = index.read_text()
    index.write_text(re.sub(r"model-00001", "../whole/model-00001", listed))
    assert sharded.read_weights() is None
    index.write_text("[]")
    assert sharded.read_weights() is None
    index.write_text(listed)
    next((tmp_path / "shards").glob("model-00001*")).unlink()
    assert sharded.read_weights() is None


def test_adapters_are_left_to_transformers(tmp_path):
    checkpoint = save(tmp_path / "base", "qwen3")
    shutil.copytree(tmp_path / "base", tmp_path / "other")
    (tmp_path / "other" / "adapter_config.json").write_text("{}")
    assert read_weights(tmp_path / "other", checkpoint.plain_config) is None


def test_weights_in_float32_are_not_copied(tmp_path):
    found = save(tmp_path, "bert").read_weights()
    assert all(not values.flags.owndata for values in found.values())
