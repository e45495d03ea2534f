"""Reading a recipe: a YAML file to dataclasses, checked field by field before anything starts."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from care_accel.errors import CareError
from care_accel.training.recipe import Recipe, Stage, Start

T = TypeVar("T")
_NAME = re.compile(r"[\w-][\w.-]*")
_ABOVE_0 = (
    "temperature",
    "epochs",
    "batch_size",
    "learning_rate",
    "max_query_tokens",
    "max_document_tokens",
    "save_steps",
)


def load_recipe(file: str | Path) -> Recipe:
    """Read and check a recipe.

    Raises
    ------
    CareError
        The file is missing or no YAML, a field is unknown, missing or of another type; the message
        names the place, such as ``stages[0].data[2].kind``.
    """
    import yaml

    file = Path(file)
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as cause:
        raise CareError(f"{file}: cannot be read: {cause.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as cause:
        raise CareError(f"{file}: no YAML: {' '.join(str(cause).split())}") from None
    recipe = _build(Recipe, values, str(file))
    _check(recipe, file)
    return recipe


def _check(recipe: Recipe, file: Path) -> None:
    if not recipe.stages:
        raise CareError(f"{file}: stages is empty; name at least one")
    names = [stage.name for stage in recipe.stages]
    for name in (recipe.name, *names):
        if not _NAME.fullmatch(name):
            raise CareError(
                f"{file}: name {name!r} becomes a folder; use letters, digits, '-', '_' and '.' behind the first"
            )
    if len(set(names)) < len(names):
        raise CareError(f"{file}: two stages have the same name")
    if not 0 <= recipe.seed < 2**32:
        raise CareError(f"{file}: seed is {recipe.seed}; it must be between 0 and {2**32 - 1}")
    _check_start(recipe.start, f"{file}")
    for stage in recipe.stages:
        _check_stage(stage, f"{file}: stage {stage.name!r}")


def _check_start(start: Start, where: str) -> None:
    found = {
        "a model": start.model is not None,
        "a query_model and a document_model": bool(start.query_model or start.document_model),
        "new networks": bool(start.tokenizer or start.query or start.document),
    }
    if len(both := [name for name, there in found.items() if there]) > 1:
        raise CareError(f"{where}: start has {' and '.join(both)}; give one of them")
    if bool(start.query_model) != bool(start.document_model):
        raise CareError(f"{where}: start needs both query_model and document_model")
    if not (start.model or start.query_model) and not (start.tokenizer and start.query and start.document):
        raise CareError(
            f"{where}: start needs a model, or query_model and document_model, or a tokenizer, a query and a "
            "document encoder"
        )
    if start.tokenizer and not (start.tokenizer.files and start.tokenizer.alphabet > 0):
        raise CareError(f"{where}: the tokenizer needs files and an alphabet above 0")
    if start.tokenizer and start.tokenizer.vocab_size < start.tokenizer.alphabet:
        raise CareError(f"{where}: the tokenizer's vocab_size must not be below its alphabet")


def _check_stage(stage: Stage, where: str) -> None:
    if not stage.data:
        raise CareError(f"{where} has no data")
    for name in _ABOVE_0:
        if not 0 < getattr(stage, name) < math.inf:
            raise CareError(f"{where}: {name} must be a number above 0")
    for name, most in (("warmup_ratio", 1.0), ("weight_decay", math.inf), ("negatives", math.inf)):
        if not 0 <= getattr(stage, name) <= most:
            raise CareError(f"{where}: {name} must be from 0 to {most:g}")
    if not 0 < stage.mask_ratio < 1:
        raise CareError(f"{where}: mask_ratio must be between 0 and 1")
    if stage.mini_batch_size is not None and stage.mini_batch_size < 1:
        raise CareError(f"{where}: mini_batch_size must be above 0")
    if any(width < 1 for width in stage.widths):
        raise CareError(f"{where}: widths must be above 0")
    weights = stage.info_nce_weight, stage.mse_weight
    if not (min(weights) >= 0 and 0 < max(weights) < math.inf):
        raise CareError(f"{where}: info_nce_weight and mse_weight must not be below 0, nor both 0")
    mining = stage.mining
    if mining and (mining.depth < 1 or mining.count < 1 or not mining.margin >= 0):
        raise CareError(f"{where}: mining needs a depth and a count above 0 and a margin not below 0")
    if stage.lora and stage.lora.rank < 1:
        raise CareError(f"{where}: the rank of lora must be above 0")
    if stage.method == "alignment" and stage.role == "document" and stage.teacher is None:
        raise CareError(f"{where}: alignment aims at the document encoder; name a teacher to train it")
    if stage.teacher is not None and stage.method != "alignment":
        raise CareError(f"{where}: a teacher is for alignment, not {stage.method}")


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, str)


_PLAIN_WORDS = {float: "number", int: "whole number", str: "text", bool: "true or false"}


def _build(kind: type[T], values: Any, where: str) -> T:
    """Build a dataclass from nested plain values, following its annotations."""
    if not isinstance(values, Mapping):
        raise CareError(f"{where}: must be a mapping of fields")
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in fields:
            raise CareError(f"{where}: unknown field {name!r}; known are {', '.join(fields)}")
    built = {name: _convert(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    for name, spec in fields.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and name not in built:
            raise CareError(f"{where}: field {name!r} is missing")
    return kind(**built)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)  # type: ignore[arg-type]
    if origin is list:
        if not isinstance(value, list):
            raise CareError(f"{where}: must be a list")
        return [_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is Literal:
        if value not in arguments:
            raise CareError(f"{where}: {value!r} is not one of {', '.join(map(str, arguments))}")
        return value
    if origin is dict:
        if not isinstance(value, Mapping):
            raise CareError(f"{where}: must be a mapping")
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        # YAML reads 1e-4 as text: its numbers need a point.
        note = "; write 1.0e-4 for 1e-4" if hint is float and _is_number(value) else ""
        raise CareError(f"{where}: {value!r} is no {_PLAIN_WORDS.get(hint, hint.__name__)}{note}")
    return value
