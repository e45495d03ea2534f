"""Configurations read without transformers against its own classes."""

import json

import pytest
from transformers import CONFIG_MAPPING, AutoConfig
from transformers.models.auto import modeling_auto

from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.loading.plain_config import CAUSAL, DEFAULTS, plain_values
from care_accel.encoding.runtimes.architectures import unsupported


def by_transformers(values):
    values = dict(values)
    return CONFIG_MAPPING[values.pop("model_type")].from_dict(values).to_dict()


@pytest.mark.parametrize("kind", DEFAULTS)
def test_defaults_are_those_of_transformers_and_none_is_missing(kind):
    made = CONFIG_MAPPING[kind]
    expected = made().to_dict()
    own = {
        name
        for name in made.__annotations__
        if not name.startswith(("_", "base_model", "keys_to", "default_"))
    }
    own -= {"model_type", "attribute_map"}
    assert own == DEFAULTS[kind].keys()
    found = plain_values({"model_type": kind})
    assert {name: found[name] for name in own} == {name: expected[name] for name in own}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_attention_is_causal_where_transformers_has_it_so(kind):
    has_causal = kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    assert (kind in CAUSAL) == (has_causal and kind not in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "bert", "hidden_size": 36, "num_attention_heads": 3, "torch_dtype": "float16"},
        {"model_type": "bert", "position_embedding_type": "relative_key", "id2label": {"0": "a", "1": "b"}},
        {"model_type": "roberta", "pad_token_id": 3, "max_position_embeddings": 514, "is_decoder": True},
        {"model_type": "xlm-roberta", "vocab_size": 250002, "eos_token_id": [2, 3]},
        {
            "model_type": "gte",
            "rope_parameters": {"rope_theta": 20_000, "rope_type": "linear", "factor": 2.5},
        },
        {"model_type": "gte", "rope_theta": 20_000.0, "auto_map": {"AutoModel": "x--y.z"}},
        {"model_type": "qwen3", "rope_theta": 1_000_000, "rope_scaling": None, "sliding_window": None},
        {"model_type": "qwen3", "rope_scaling": {"type": "linear", "factor": 4.0}, "use_cache": False},
        {"model_type": "qwen3", "num_key_value_heads": None, "is_causal": False, "pad_token_id": 9},
        {"model_type": "qwen3", "layer_types": ["full_attention"] * 3, "num_hidden_layers": 3},
    ],
)
def test_values_are_those_of_transformers(values):
    found = plain_values(values)
    expected = by_transformers({name: value for name, value in values.items() if name != "auto_map"})
    for name in {*DEFAULTS[values["model_type"]], "model_type", *values} - {
        *("rope_theta", "rope_scaling", "auto_map", "torch_dtype", "id2label"),
    }:
        assert found[name] == expected[name], name
    assert unsupported(found) == unsupported(expected)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"model_type": "t5"},
        {"model_type": None},
        {"model_type": "bert", "hidden_size": "768"},
        {"model_type": "bert", "hidden_size": True},
        {"model_type": "bert", "hidden_size": 770},
        {"model_type": "bert", "hidden_size": None},
        {"model_type": "bert", "num_hidden_layers": 0},
        {"model_type": "bert", "pad_token_id": -1},
        {"model_type": "bert", "layer_norm_eps": "1e-12"},
        {"model_type": "bert", "quantization_config": {}},
        {"model_type": "roberta", "pad_token_id": None},
        {"model_type": "gte", "rope_parameters": {"rope_type": "yarn", "factor": 2.0}},
        {"model_type": "gte", "rope_parameters": {"full_attention": {"rope_type": "default"}}},
        {"model_type": "gte", "rope_scaling": {"rope_type": "linear"}},
        {"model_type": "new", "rope_scaling": {"type": "abacus", "factor": 2.0}},
        {"model_type": "qwen3", "partial_rotary_factor": 0.5},
        {"model_type": "qwen3", "use_sliding_window": True},
        {"model_type": "qwen3", "layer_types": ["sliding_attention"]},
        {"model_type": "qwen3", "num_attention_heads": 5, "num_key_value_heads": 2},
    ],
)
def test_what_is_not_sure_is_left_to_transformers(values):
    assert plain_values(values) is None


@pytest.mark.parametrize("kind", [*DEFAULTS, "distilbert"])
def test_a_checkpoint_answers_as_transformers_does(make_encoder, tmp_path, kind):
    others = {"hidden_dim": 64} if kind == "distilbert" else {}
    folder = make_encoder(tmp_path / "encoder", kind, **others)
    checkpoint = Checkpoint(folder)
    assert (checkpoint.plain_config is None) == (kind == "distilbert")
    config = AutoConfig.from_pretrained(folder)
    assert checkpoint.rotary == (getattr(config, "rope_parameters", None) is not None)
    offset = config.pad_token_id + 1 if "roberta" in kind else 0
    assert checkpoint.max_tokens == config.max_position_embeddings - offset
    assert checkpoint.settings["model_type"] == kind


def test_an_original_gte_configuration_is_translated_once_for_both_ways(make_encoder, tmp_path):
    folder = make_encoder(tmp_path / "encoder", "gte")
    file = folder / "config.json"
    values = json.loads(file.read_text())
    values |= {"model_type": "new", "rope_theta": 20_000, "rope_scaling": {"type": "ntk", "factor": 8.0}}
    del values["rope_parameters"]
    file.write_text(json.dumps(values))
    checkpoint = Checkpoint(folder)
    assert checkpoint.plain_config["rope_parameters"] == checkpoint.config.rope_parameters
    assert checkpoint.plain_config["rope_parameters"]["rope_type"] == "linear"
