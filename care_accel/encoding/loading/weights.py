"""Weights of the networks that the native engine knows, as NumPy arrays, without PyTorch, which takes seconds to import.

`read_weights` gives what transformers' ``from_pretrained`` gives in float32. It gives nothing where it is not sure to: an
adapter, other names or shapes, weights that are missing. Those are left to transformers and its messages.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding.loading.int8_weights import FILE as INT8
from care_accel.encoding.loading.int8_weights import load_int8

Weights = dict[str, NDArray[np.float32]]
Shapes = dict[str, tuple[int, ...]]

# An extra weight of such a name means that config.json is wrong; others are of heads.
LAYER = re.compile(r"layers?\.\d+\..*weight$")
_FILE = "model.safetensors"
_INDEX = f"{_FILE}.index.json"
# What comes before the name of a weight in the file of a network with a head.
_PREFIXES = {
    "bert": ("bert",),
    "roberta": ("roberta",),
    "xlm-roberta": ("roberta",),
    "gte": ("new", "gte"),
    "qwen3": ("model",),
}
_LEGACY = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
# Of gte networks, in files and in transformers.
_GTE = (
    ("encoder.layer.", "layers."),
    (".attention.o_proj.", ".self_attn.o_proj."),
    (".attn_ln.", ".post_attention_layernorm."),
    (".mlp_ln.", ".post_mlp_layernorm."),
)
_GTE_PARTS = {
    ".attention.qkv_proj.": (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj."),
    ".mlp.up_gate_proj.": (".mlp.up_proj.", ".mlp.gate_proj."),
}


def read_weights(folder: Path, config: Mapping[str, Any]) -> Weights | None:
    """Return a network's weights by transformers' names in float32, or None if transformers has to load them.

    Arrays may be read-only views of the memory-mapped files.

    Parameters
    ----------
    folder : Path
        An encoder's folder, with weights in safetensors, in shards or not, or in int8.
    config : mapping
        Of `plain_values`.

    Raises
    ------
    CareError
        Weights in int8 are corrupt.
    """
    if (folder / "adapter_config.json").exists():
        return None
    try:
        stored = load_int8(folder) if (folder / INT8).is_file() else dict(_stored(folder))
    except (KeyError, OSError, TypeError, ValueError):
        return None
    kind = str(config["model_type"])
    weights: Weights = {}
    for name, values in stored.items():
        for renamed, part in _renamed(name, values, kind):
            if renamed in weights:
                return None
            weights[renamed] = part
    expected = shapes(config)
    if any(name not in weights or weights[name].shape != shape for name, shape in expected.items()):
        return None
    if any(LAYER.search(name) for name in weights.keys() - expected.keys()):
        return None
    return {name: np.ascontiguousarray(weights[name]) for name in expected}


def _renamed(name: str, values: NDArray[np.float32], kind: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield a stored weight under transformers' name, or its parts under theirs."""
    for prefix in _PREFIXES[kind]:
        name = name.removeprefix(f"{prefix}.")
    for old, new in _LEGACY:
        name = name.replace(old, new)
    if kind == "gte":
        for old, new in _GTE:
            name = name.replace(old, new)
        for whole, parts in _GTE_PARTS.items():
            if whole in name and values.ndim and len(values) % len(parts) == 0:
                for part, rows in zip(parts, np.split(values, len(parts)), strict=True):
                    yield name.replace(whole, part), rows
                return
    yield name, values


def shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the names and shapes of a network's weights in transformers, without a pooling layer."""
    if config["model_type"] == "gte":
        return _gte_shapes(config)
    return _qwen3_shapes(config) if config["model_type"] == "qwen3" else _bert_shapes(config)


def _linear(name: str, outputs: int, inputs: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def _norm(name: str, size: int) -> Shapes:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def _bert_shapes(config: Mapping[str, Any]) -> Shapes:
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    found: Shapes = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        **_norm("embeddings.LayerNorm", hidden),
    }
    for i in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            found |= _linear(f"{at}.attention.self.{part}", hidden, hidden)
        found |= _linear(f"{at}.attention.output.dense", hidden, hidden)
        found |= _norm(f"{at}.attention.output.LayerNorm", hidden)
        found |= _linear(f"{at}.intermediate.dense", wide, hidden)
        found |= _linear(f"{at}.output.dense", hidden, wide)
        found |= _norm(f"{at}.output.LayerNorm", hidden)
    return found


def _gte_shapes(config: Mapping[str, Any]) -> Shapes:
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    found: Shapes = {"embeddings.word_embeddings.weight": (config["vocab_size"], hidden)}
    if config["type_vocab_size"]:
        found["embeddings.token_type_embeddings.weight"] = (config["type_vocab_size"], hidden)
    found |= _norm("embeddings.LayerNorm", hidden)
    for i in range(config["num_hidden_layers"]):
        at = f"layers.{i}"
        for part in "qkvo":
            found |= _linear(f"{at}.self_attn.{part}_proj", hidden, hidden)
        found |= _linear(f"{at}.mlp.gate_proj", wide, hidden, bias=False)
        found |= _linear(f"{at}.mlp.up_proj", wide, hidden, bias=False)
        found |= _linear(f"{at}.mlp.down_proj", hidden, wide)
        found |= _norm(f"{at}.post_attention_layernorm", hidden)
        found |= _norm(f"{at}.post_mlp_layernorm", hidden)
    return found


def _qwen3_shapes(config: Mapping[str, Any]) -> Shapes:
    hidden, wide, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    bias = config["attention_bias"]
    found: Shapes = {"embed_tokens.weight": (config["vocab_size"], hidden), "norm.weight": (hidden,)}
    for i in range(config["num_hidden_layers"]):
        at = f"layers.{i}"
        found |= _linear(f"{at}.self_attn.q_proj", queries, hidden, bias)
        found |= _linear(f"{at}.self_attn.k_proj", keys, hidden, bias)
        found |= _linear(f"{at}.self_attn.v_proj", keys, hidden, bias)
        found |= _linear(f"{at}.self_attn.o_proj", hidden, queries, bias)
        found |= {f"{at}.self_attn.{part}_norm.weight": (head,) for part in "qk"}
        found |= _linear(f"{at}.mlp.gate_proj", wide, hidden, bias=False)
        found |= _linear(f"{at}.mlp.up_proj", wide, hidden, bias=False)
        found |= _linear(f"{at}.mlp.down_proj", hidden, wide, bias=False)
        found |= {f"{at}.{part}_layernorm.weight": (hidden,) for part in ("input", "post_attention")}
    return found


def _stored(folder: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the weights of a folder in float32.

    Raises
    ------
    KeyError, OSError, TypeError, ValueError
        A file is missing, corrupt, or holds other types than float32, float16 and bfloat16.
    """
    if (folder / _FILE).is_file():
        yield from _tensors(folder / _FILE)
        return
    places: dict[str, str] = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard:
            raise ValueError(f"{shard} is not in the folder")
        for name, values in _tensors(folder / shard):
            if places.get(name) == shard:
                yield name, values


def _tensors(file: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the tensors of a safetensors file.

    NumPy has no bfloat16, and the format is simple: the length of a header in JSON, the header, and the values.
    safetensors opens the file first, since it checks all of the header.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            pass
    except SafetensorError as corrupt:
        raise ValueError(str(corrupt)) from None
    mapped = np.memmap(file, dtype=np.uint8, mode="r")
    start = 8 + int.from_bytes(mapped[:8].tobytes(), "little")
    header = json.loads(mapped[8:start].tobytes())
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if kind not in _FLOATS:
            if LAYER.search(name):
                raise ValueError(f"{name} is {kind}")
            continue  # position ids and the like, which are no weights
        dtype = np.dtype(_FLOATS[kind])
        # A plain array, as sub-arrays of memmap are slow to make.
        values = np.frombuffer(mapped, dtype, math.prod(shape), start + begin).reshape(shape)
        if (end - begin) != values.nbytes:
            raise ValueError(f"{name} has another size")
        yield name, _float32(values, kind)


_FLOATS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def _float32(values: NDArray[Any], kind: str) -> NDArray[np.float32]:
    if kind == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32, copy=not values.flags.aligned or kind != "F32")
