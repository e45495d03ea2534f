"""Adapters as peft writes them: of a bare network and of one with a head, of every kind that can be merged."""

import json
import shutil

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from care_accel import CareError, DualEncoder
from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.loading.sources import open_checkpoint

TEXTS = ["头痛怎么办", "高血压患者应低盐饮食", "咳嗽"]
IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def base(tiny_folders, tmp_path_factory):
    """Return the folder of a causal language model, head included."""
    folder = tmp_path_factory.mktemp("base") / "causal-lm"
    tokenizer = AutoTokenizer.from_pretrained(tiny_folders / "document_encoder")
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=64,
        attention_bias=True,
        tie_word_embeddings=False,
    )
    torch.manual_seed(7)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train(base, folder, kind=AutoModelForCausalLM, **config):
    """Write an adapter whose every weight differs from its start, and return the merged network's hidden states."""
    torch.manual_seed(0)
    adapted = get_peft_model(kind.from_pretrained(base), LoraConfig(**{"r": 4, "lora_alpha": 8} | config))
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            # A magnitude of DoRA stays positive.
            change = (
                0.3 * torch.rand_like(parameter) if "magnitude" in name else 0.2 * torch.randn_like(parameter)
            )
            parameter.data += change
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    again = PeftModel.from_pretrained(kind.from_pretrained(base), folder).merge_and_unload().eval()
    return hidden(getattr(again, "model", again))


def hidden(network):
    with torch.no_grad():
        return network(input_ids=IDS).last_hidden_state


ATTENTION = {"target_modules": ["q_proj", "v_proj"]}
CAUSAL = {"task_type": "CAUSAL_LM"}
KINDS = {
    "causal": ATTENTION | CAUSAL,
    "every linear layer": CAUSAL | {"target_modules": "all-linear"},
    "dora": ATTENTION | CAUSAL | {"use_dora": True},
    "scaled by the root of the rank": ATTENTION | CAUSAL | {"use_rslora": True},
    "targets by a regular expression": CAUSAL | {"target_modules": r"model\.layers\.1\..*\.(q|up)_proj"},
    "ranks by patterns": ATTENTION
    | CAUSAL
    | {
        "rank_pattern": {"model.layers.0.self_attn.q_proj": 6},
        "alpha_pattern": {"^model.layers.1.self_attn.v_proj": 32},
    },
    "the head too": CAUSAL | {"target_modules": ["q_proj", "lm_head"]},
    "embeddings and the head in full": ATTENTION | CAUSAL | {"modules_to_save": ["embed_tokens", "lm_head"]},
    "norms in full": ATTENTION | CAUSAL | {"modules_to_save": ["input_layernorm"]},
    "biases": ATTENTION | CAUSAL | {"bias": "lora_only"},
    "every bias": ATTENTION | CAUSAL | {"bias": "all"},
    "some tokens' embeddings": ATTENTION | CAUSAL | {"trainable_token_indices": {"embed_tokens": [5, 7]}},
    "one layer": ATTENTION | CAUSAL | {"layers_to_transform": [1]},
}
BARE = {
    "bare": ATTENTION,
    "bare, for features": ATTENTION | {"task_type": "FEATURE_EXTRACTION"},
    "bare, dora": ATTENTION | {"use_dora": True},
    "bare, ranks by patterns": ATTENTION | {"rank_pattern": {"layers.0.self_attn.q_proj": 6}},
    "bare, embeddings in full": ATTENTION | {"modules_to_save": ["embed_tokens"]},
}


@pytest.mark.filterwarnings("ignore:Setting .save_embedding_layers")
@pytest.mark.parametrize("kind", [*KINDS, *BARE])
def test_an_adapter_gives_the_merged_network_s_hidden_states(base, tmp_path, kind):
    bare = kind in BARE
    expected = train(
        base, tmp_path / "a", AutoModel if bare else AutoModelForCausalLM, **(KINDS | BARE)[kind]
    )
    found = hidden(open_checkpoint(tmp_path / "a").load_network("float32"))
    assert type(open_checkpoint(tmp_path / "a").load_network("float32")).__name__ == "Qwen3Model"
    np.testing.assert_allclose(found, expected, atol=1e-6)
    plain = hidden(Checkpoint(base).load_network("float32"))
    assert (plain - expected).abs().max() > 1e-2


def test_an_adapter_of_a_masked_language_model_is_found_under_the_name_of_its_network(tiny_folders, tmp_path):
    from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_folders / "query_encoder")
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    adapted = get_peft_model(
        AutoModelForMaskedLM.from_pretrained(tmp_path / "base"),
        LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False),
    )
    adapted.save_pretrained(tmp_path / "a")
    expected = hidden(adapted.merge_and_unload().eval().bert)
    found = hidden(open_checkpoint(tmp_path / "a").load_network("float32"))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], init_lora_weights=False),
        IA3Config(
            task_type="SEQ_CLS",
            target_modules=["k_proj", "down_proj"],
            feedforward_modules=["down_proj"],
            init_ia3_weights=False,
        ),
    ],
)
def test_adapters_of_other_heads_and_of_other_kinds_that_can_be_merged(base, tmp_path, config):
    torch.manual_seed(0)
    adapted = get_peft_model(AutoModelForSequenceClassification.from_pretrained(base), config)
    adapted.save_pretrained(tmp_path / "a")
    expected = hidden(adapted.merge_and_unload().eval().model)
    found = hidden(open_checkpoint(tmp_path / "a").load_network("float32"))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (hidden(Checkpoint(base).load_network("float32")) - expected).abs().max() > 1e-3


def test_a_causal_adapter_is_an_encoder_like_any_other(base, tmp_path):
    train(base, tmp_path / "a", **KINDS["causal"])
    model = DualEncoder.from_pretrained(query=tmp_path / "a", document=tmp_path / "a")
    assert model.spec("query").pooling == "last"
    vectors = model.encode_document(TEXTS)
    model.save_pretrained(tmp_path / "merged")
    again = DualEncoder.from_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(again.encode_document(TEXTS), vectors, atol=1e-6)
    assert again.source("query").checkpoint.base is None


def test_a_base_that_moved_is_named_by_base_and_the_message_says_so(base, tmp_path):
    moved = shutil.copytree(base, tmp_path / "here")
    expected = train(moved, tmp_path / "a", **KINDS["causal"])
    there = moved.rename(tmp_path / "there")
    two = {"query": tmp_path / "a", "document": tmp_path / "a"}
    with pytest.raises(
        CareError, match=r"adapter_config\.json: its base model .*name its folder with base="
    ) as error:
        DualEncoder.from_pretrained(**two)
    assert "\n" not in str(error.value)
    model = DualEncoder.from_pretrained(**two, base=there, runtime="pytorch")
    np.testing.assert_allclose(hidden(model.encoder("query").runtime.network), expected, atol=1e-6)
    with pytest.raises(CareError, match="nowhere: no such folder"):
        DualEncoder.from_pretrained(**two, base="nowhere")
    with pytest.raises(CareError, match="neither encoder is an adapter; remove base="):
        DualEncoder.from_pretrained(query=there, document=there, base=there)


def test_an_adapter_that_names_no_base_says_how_to_name_it(base, tmp_path):
    train(base, tmp_path / "a", **KINDS["causal"])
    change(tmp_path / "a", base_model_name_or_path=None)
    with pytest.raises(CareError, match="names no base model; name its folder with base="):
        open_checkpoint(tmp_path / "a")
    assert open_checkpoint(tmp_path / "a", base).base == base


def change(folder, **values):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def edit(folder, change):
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def drop(part):
    return lambda tensors: tensors.pop(next(name for name in tensors if part in name))


def add_layer(tensors):
    name = next(iter(tensors))
    tensors[name.replace("layers.0", "layers.9").replace("layers.1", "layers.9")] = tensors[name].clone()


def heads_only(tensors):
    for name in list(tensors):
        tensors[name.replace("base_model.model.model", "base_model.model.head")] = tensors.pop(name)


@pytest.mark.parametrize(
    ("kind", "damage", "words"),
    [
        ("causal", lambda f: edit(f, drop("lora_B")), "lacks 1 weights, such as .*lora_B"),
        (
            "embeddings and the head in full",
            lambda f: edit(f, drop("embed")),
            "lacks 1 weights, .*embed_tokens",
        ),
        ("causal", lambda f: edit(f, add_layer), r"such as .*layers\.9.*, belong to no module of the base"),
        ("causal", lambda f: edit(f, heads_only), "lacks"),
        ("causal", lambda f: change(f, target_modules=["nothing"]), "does not match"),
        ("causal", lambda f: change(f, r=5), "does not match: .*size mismatch"),
        ("causal", lambda f: change(f, peft_type="TOMORROW"), "does not match"),
        ("causal", lambda f: (f / "adapter_model.safetensors").unlink(), r"no adapter_model\.safetensors"),
        ("causal", lambda f: (f / "adapter_model.safetensors").write_bytes(b"no"), "does not match"),
    ],
)
def test_an_adapter_that_cannot_work_is_one_line_and_never_random_weights(
    base, tmp_path, kind, damage, words
):
    folder = tmp_path / "a"
    train(base, folder, **KINDS[kind])
    damage(folder)
    with pytest.raises(CareError, match=words) as error:
        open_checkpoint(folder).load_network("float32")
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_adapter_that_adds_tokens_cannot_be_merged(base, tmp_path):
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "a")
    with pytest.raises(CareError, match="PROMPT_TUNING adds tokens to every input, which cannot be merged"):
        open_checkpoint(tmp_path / "a").load_network("float32")
