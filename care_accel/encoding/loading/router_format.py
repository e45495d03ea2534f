"""Reads sentence-transformers folders: a Router with a query and a document route, or one encoder for both.

Reads the JSON files directly, so that loading does not need sentence-transformers. Writing uses that library.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.loading.dense import read_library_layer
from care_accel.encoding.loading.notices import notice_once
from care_accel.encoding.spec import PLAIN, ROLES, Dense, EncoderSpec, Order, Pooling, Role
from care_accel.errors import CareError
from care_accel.files import read_json

_POOLINGS: dict[str, Pooling] = {"cls": "first", "lasttoken": "last", "mean": "mean"}
LIBRARY_POOLINGS = {ours: theirs for theirs, ours in _POOLINGS.items()}
# The mean times the square root of the length: the mean, once normalised.
_SCALED_MEAN = "mean_sqrt_len_tokens"
# Releases before 6 wrote one flag per mode instead of pooling_mode.
_OLD_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": _SCALED_MEAN,
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
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
    dense: tuple[Dense, ...]
    dense_files: tuple[Path, ...]
    include_prompt: bool

    def spec(self, checkpoint: Checkpoint) -> EncoderSpec:
        """Return the spec of this route and its network."""
        width = self.dense[-1].width if self.dense else checkpoint.hidden_size
        return EncoderSpec(
            pooling=self.pooling,
            order=self.order,
            width=min(self.truncate_dim or width, width),
            prompts={"default": self.prompt + PLAIN} if self.prompt else {},
            max_tokens=self._limit(checkpoint),
            padding_side="left" if checkpoint.causal else "right",
            dense=self.dense,
            include_prompt=self.include_prompt,
        )

    def _limit(self, checkpoint: Checkpoint) -> int:
        settings = read_json(
            checkpoint.tokenizer_folder / "tokenizer_config.json", "an encoder folder needs it"
        )
        limits = (self.max_tokens, settings.get("model_max_length"))
        limit = min((int(n) for n in limits if n and n < _UNBOUNDED), default=_UNBOUNDED)
        positions = checkpoint.max_tokens
        if positions is None or limit <= positions:
            return limit
        # The library's default is the size of the position table, of which RoBERTa's networks leave out the first rows:
        # it fails at longer texts.
        if limit < _UNBOUNDED:
            notice_once(
                f"{checkpoint.folder}: max_seq_length is {limit}, but the network has {positions} positions; longer "
                f"texts are truncated to {positions} tokens"
            )
        return positions


def read_router_format(folder: Path) -> dict[Role, Route]:
    """Read both routes of a sentence-transformers folder; without a Router they are the same.

    Raises
    ------
    CareError
        A file is missing or invalid, or a module or a pooling is not supported.
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
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Dense", "Normalize"}:
        raise CareError(
            f"{where}: modules {', '.join(kinds)}; only Transformer, Pooling, then any of Dense and Normalize are "
            "supported"
        )
    dense = []
    for (kind, folder), before in zip(modules[2:], kinds[1:], strict=False):
        if kind == "Dense":
            dense.append(read_library_layer(folder, normalize=before == "Normalize"))
    layers = tuple(layer for layer, _ in dense)
    score = settings.get("similarity_fn_name") or "cosine"
    normalised = kinds[-1] == "Normalize"
    if score != "cosine" and not (score == "dot" and normalised):
        raise CareError(
            f"{where}: similarity {score!r} on {'' if normalised else 'un'}normalised vectors is not "
            "supported; use cosine, or dot with a Normalize module at the end"
        )
    truncate_dim = settings.get("truncate_dim")
    # sentence-transformers slices last, after any Normalize; but its cosine then normalises again.
    slices_last = score == "dot" and truncate_dim is not None
    transformer = _read_optional(where / "sentence_bert_config.json")
    pooling, include_prompt = _pooling(
        modules[1][1] / "config.json", any_length=not layers or layers[0].normalize
    )
    return Route(
        folder=where,
        pooling=pooling,
        order="normalize-then-slice" if slices_last else "slice-then-normalize",
        truncate_dim=truncate_dim,
        prompt=prompt,
        max_tokens=transformer.get("max_seq_length"),
        dense=layers,
        dense_files=tuple(file for _, file in dense),
        include_prompt=include_prompt,
    )


def _pooling(file: Path, *, any_length: bool) -> tuple[Pooling, bool]:
    """Return the pooling, and whether it includes the prompt; ``any_length`` if vectors are normalised right after it."""
    values = read_json(file, "a Pooling module needs it")
    given = values.get("pooling_mode")
    if given is None:
        given = [mode for flag, mode in _OLD_FLAGS.items() if values.get(flag) is True] or ["mean"]
    modes = [given] if isinstance(given, str) else given
    if not isinstance(modes, list) or not modes or not all(isinstance(mode, str) for mode in modes):
        raise CareError(f"{file}: pooling_mode is {given!r}; it must be one of {', '.join(_POOLINGS)}")
    if len(modes) > 1:
        raise CareError(
            f"{file}: the concatenated poolings {' and '.join(modes)} are not supported; use a model with one of "
            f"{', '.join(_POOLINGS)}"
        )
    if modes == [_SCALED_MEAN] and any_length:
        modes = ["mean"]
    if modes[0] not in _POOLINGS:
        raise CareError(
            f"{file}: pooling {modes[0]!r} is not supported; use a model with one of {', '.join(_POOLINGS)}"
        )
    include_prompt = values.get("include_prompt", True)
    if not isinstance(include_prompt, bool):
        raise CareError(f"{file}: include_prompt is {include_prompt!r}; it must be true or false")
    return _POOLINGS[modes[0]], include_prompt


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
