"""Reads sentence-transformers folders: a Router with a query and a document route, or one encoder for both.

Reads the JSON files directly, so that loading does not need sentence-transformers. Writing uses that library.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.spec import PLAIN, ROLES, EncoderSpec, Order, Pooling, Role
from care_accel.errors import CareError
from care_accel.files import read_json

_POOLINGS: dict[str, Pooling] = {"cls": "first", "lasttoken": "last", "mean": "mean"}
LIBRARY_POOLINGS = {ours: theirs for theirs, ours in _POOLINGS.items()}
# Releases before 6 wrote one flag per mode instead of pooling_mode.
_OLD_FLAGS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_mean_tokens": "mean",
}
_UNBOUNDED = 1_000_000


@dataclass(frozen=True)
class Route:
    """One route of a sentence-transformers folder."""

    folder: Path
    pooling: Pooling
    order: Order
    truncate_dim: int | None
    prompt: str
    max_tokens: int | None

    def spec(self, checkpoint: Checkpoint) -> EncoderSpec:
        """Return the spec of this route and its network."""
        settings = read_json(checkpoint.folder / "tokenizer_config.json", "an encoder folder needs it")
        limits = (
            self.max_tokens,
            settings.get("model_max_length"),
            checkpoint.config_values.get("max_position_embeddings"),
        )
        return EncoderSpec(
            pooling=self.pooling,
            order=self.order,
            width=min(self.truncate_dim or checkpoint.hidden_size, checkpoint.hidden_size),
            prompts={"default": self.prompt + PLAIN} if self.prompt else {},
            max_tokens=min((int(n) for n in limits if n and n < _UNBOUNDED), default=_UNBOUNDED),
            padding_side="left" if checkpoint.causal else "right",
        )


def read_router_format(folder: Path) -> dict[Role, Route]:
    """Read both routes of a sentence-transformers folder; without a Router they are the same.

    Raises
    ------
    CareError
        A file is missing or invalid, or a module is not Transformer, Pooling or Normalize.
    """
    try:
        return _read_routes(folder)
    except (KeyError, IndexError, TypeError, AttributeError) as cause:
        raise CareError(
            f"{folder}: modules.json or router_config.json is not in the format of sentence-transformers "
            f"({type(cause).__name__}: {cause})"
        ) from cause


def _read_routes(folder: Path) -> dict[Role, Route]:
    settings = _read_optional(folder / "config_sentence_transformers.json")
    modules = [(_kind(m["type"]), folder / m["path"]) for m in _read_list(folder / "modules.json")]
    prompts = settings.get("prompts") or {}
    if modules[0][0] != "Router":
        routes = dict.fromkeys(ROLES, modules)
    else:
        router = read_json(modules[0][1] / "router_config.json", "a Router needs it")
        structure, types = router["structure"], router["types"]
        if missing := [role for role in ROLES if role not in structure]:
            raise CareError(f"{folder / 'router_config.json'}: route {missing[0]!r} is missing")
        routes = {
            role: [(_kind(types[name]), modules[0][1] / name) for name in structure[role]] + modules[1:]
            for role in ROLES
        }
    return {role: _route(routes[role], settings, prompts.get(role) or "") for role in ROLES}


def _route(modules: list[tuple[str, Path]], settings: dict[str, Any], prompt: str) -> Route:
    kinds = [kind for kind, _ in modules]
    where = modules[0][1]
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Normalize"}:
        raise CareError(
            f"{where}: modules {', '.join(kinds)}; only Transformer, Pooling, Normalize are supported"
        )
    score = settings.get("similarity_fn_name") or "cosine"
    if score != "cosine" and not (score == "dot" and "Normalize" in kinds):
        raise CareError(
            f"{where}: similarity {score!r} on {'' if 'Normalize' in kinds else 'un'}normalised vectors is not "
            "supported; use cosine, or dot with a Normalize module"
        )
    truncate_dim = settings.get("truncate_dim")
    # sentence-transformers slices last, after any Normalize; but its cosine then normalises again.
    slices_last = score == "dot" and truncate_dim is not None
    transformer = _read_optional(where / "sentence_bert_config.json")
    return Route(
        folder=where,
        pooling=_pooling(modules[1][1] / "config.json"),
        order="normalize-then-slice" if slices_last else "slice-then-normalize",
        truncate_dim=truncate_dim,
        prompt=prompt,
        max_tokens=transformer.get("max_seq_length"),
    )


def _pooling(file: Path) -> Pooling:
    values = read_json(file, "a Pooling module needs it")
    mode = values.get("pooling_mode")
    known = [_POOLINGS[mode]] if mode in _POOLINGS else []
    known += [ours for flag, ours in _OLD_FLAGS.items() if values.get(flag) is True]
    if len(known) != 1 or values.get("include_prompt") is False:
        raise CareError(f"{file}: unsupported pooling; use cls, lasttoken or mean with include_prompt")
    return known[0]


def _kind(dotted: str) -> str:
    return dotted.rsplit(".", 1)[-1]


def _read_optional(file: Path) -> dict[str, Any]:
    return read_json(file, "") if file.is_file() else {}


def _read_list(file: Path) -> list[dict[str, Any]]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as cause:
        raise CareError(f"{file}: cannot be read as JSON: {cause}") from None
    if not isinstance(values, list) or not values:
        raise CareError(f"{file}: not a list of modules")
    return values
