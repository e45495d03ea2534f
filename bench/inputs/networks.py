"""Networks at true size with random weights, the paper's and those that people serve, and the peer runtimes."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from care_accel.encoding import EncoderSpec


def _bert(layers, hidden, heads, vocabulary=21_128):
    return {
        "vocab_size": vocabulary,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
    }


NETWORKS = {
    # The shapes of bge-small-zh, multilingual-e5-small and bge-base-zh.
    "bge-small, 4 x 512": ("bert", _bert(4, 512, 8)),
    "e5-small, 12 x 384": ("bert", _bert(12, 384, 12, 250_037)),
    "bge-base, 12 x 768": ("bert", _bert(12, 768, 12)),
    "e5-small, small": ("bert", _bert(2, 64, 4, 14_000)),
    "gte, 305M": ("gte", {"vocab_size": 250048}),
    "gte, small": (
        "gte",
        {
            "vocab_size": 14_000,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "hidden_size": 64,
            "intermediate_size": 128,
        },
    ),
    "qwen3, 0.6B": (
        "qwen3",
        {
            "vocab_size": 151669,
            "hidden_size": 1024,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 3072,
        },
    ),
    "qwen3, small": (
        "qwen3",
        {
            "vocab_size": 14_000,
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "intermediate_size": 256,
        },
    ),
}


@functools.lru_cache(maxsize=2)
def network(name):
    import torch
    from transformers import CONFIG_MAPPING, AutoModel

    model_type, values = NETWORKS[name]
    torch.manual_seed(0)
    return AutoModel.from_config(CONFIG_MAPPING[model_type](**values)).eval()


def layer_weights(name):
    """Return how many weights the layers have, all of which a forward pass reads: nearly all in matrices."""
    made = network(name)
    layers = made.encoder.layer if NETWORKS[name][0] == "bert" else made.layers
    return sum(p.numel() for p in layers.parameters())


def spec(name, dtype="float32"):
    model_type, values = NETWORKS[name]
    return EncoderSpec(
        pooling="last" if model_type == "qwen3" else "mean" if name.startswith("e5") else "first",
        order="normalize-then-slice",
        width=min(768, values.get("hidden_size", 768)),
        dtype=dtype,
        device="cpu",
    )


def native(name, dtype="float32"):
    from care_accel.encoding.runtimes.native import NativeRuntime

    return NativeRuntime(network(name), spec(name, dtype))


def pytorch(name):
    from care_accel.encoding.runtimes.pytorch import PyTorchRuntime

    return PyTorchRuntime(network(name), spec(name))


def pytorch_eager(name):
    """Return what a user of transformers writes: all hidden states, then pooling, slicing and normalising."""
    import torch

    from care_accel.kernels import pool, project

    model, how = network(name), spec(name)

    def encode(ids, mask):
        with torch.inference_mode():
            mask = torch.from_numpy(mask)
            hidden = model(input_ids=torch.from_numpy(ids), attention_mask=mask).last_hidden_state
            return project(pool(hidden, mask, how.pooling), how.width, how.order).numpy()

    return encode


def sentence_transformers(name):
    """Return the network in the modules that a user of sentence-transformers runs after the tokenizer."""
    import torch

    pytest.importorskip("sentence_transformers", reason="the peer is not installed (extra train)")
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from tokenizers import Tokenizer, models
    from transformers import CONFIG_MAPPING, AutoModel, PreTrainedTokenizerFast

    model_type, values = NETWORKS[name]
    small = CONFIG_MAPPING[model_type](**values | {"num_hidden_layers": 1, "vocab_size": 8})
    with tempfile.TemporaryDirectory() as place:  # a small network in its place: the weights are not written
        AutoModel.from_config(small).save_pretrained(place)
        tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="?").save_pretrained(place)
        transformer = Transformer(place)
    transformer.model = network(name)
    how = spec(name)
    modes = {"first": "cls", "last": "lasttoken", "mean": "mean"}
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode=modes[how.pooling])
    modules = torch.nn.Sequential(transformer, pooling, Normalize()).eval()

    def encode(ids, mask):
        with torch.inference_mode():
            found = modules({"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)})
            return found["sentence_embedding"][:, : how.width].numpy()

    return encode


@functools.cache
def _folder():
    folder = tempfile.TemporaryDirectory(prefix="care-bench-")
    return folder, Path(folder.name)  # removed with its object, at the end


@functools.cache
def graph(name):
    pytest.importorskip("onnxscript", reason="onnx is not installed (extra onnx)")
    from care_accel.export.graph import write_graph

    file = _folder()[1] / f"{name.replace(', ', '-')}.onnx"
    write_graph(network(name), spec(name), file)
    return file


def onnxruntime(name):
    pytest.importorskip("onnxruntime", reason="the peer onnxruntime is not installed (extra onnx)")
    from care_accel.encoding.runtimes.onnxruntime_cpu import OnnxRuntime

    return OnnxRuntime(graph(name))


def onnxruntime_int8(name):
    """Return ONNX Runtime's own dynamic quantisation of the same graph, of its matrix products."""
    pytest.importorskip("onnxruntime", reason="the peer onnxruntime is not installed (extra onnx)")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from care_accel.encoding.runtimes.onnxruntime_cpu import OnnxRuntime

    file = graph(name).with_suffix(".int8.onnx")
    if not file.is_file():
        quantize_dynamic(
            graph(name),
            file,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            extra_options={"MatMulConstBOnly": True},
            use_external_data_format=True,
        )
    return OnnxRuntime(file)


def openvino(name, precision=None):
    """Return OpenVINO on the same graph, by default in a precision of its own choice."""
    library = pytest.importorskip("openvino", reason="the peer openvino is not installed (extra bench)")
    options = {"INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0))}
    if precision is not None:
        options["INFERENCE_PRECISION_HINT"] = precision
    compiled = library.compile_model(str(graph(name)), "CPU", options)
    return lambda ids, mask: compiled([ids, mask])[0]


def random_tokens(queries, tokens, seed=0):
    ids = np.random.default_rng(seed).integers(5, 8000, (queries, tokens))
    return ids, np.ones_like(ids)
