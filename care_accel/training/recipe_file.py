"""Loads a recipe: a YAML file to dataclasses, validated before training."""

from __future__ import annotations

import math
import re
from pathlib import Path

from care_accel.errors import CareError
from care_accel.fields import build, read_yaml
from care_accel.training.recipe import Recipe, Stage, Start

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
    """Load and validate a recipe.

    Raises
    ------
    CareError
        The file is missing or not YAML, or a field is unknown, missing or of the wrong type; the message has its
        path, such as ``stages[0].data[2].kind``.
    """
    file = Path(file)
    recipe = build(Recipe, read_yaml(file), str(file))
    _check(recipe, file)
    return recipe


def _check(recipe: Recipe, file: Path) -> None:
    if not recipe.stages:
        raise CareError(f"{file}: stages is empty; name at least one")
    names = [stage.name for stage in recipe.stages]
    for name in (recipe.name, *names):
        if not _NAME.fullmatch(name):
            raise CareError(
                f"{file}: name {name!r} is used as a folder name; use letters, digits, '-', '_' and, after the first character, '.'"
            )
    if len(set(names)) < len(names):
        raise CareError(f"{file}: two stages have the same name; rename one")
    if not 0 <= recipe.seed < 2**32:
        raise CareError(f"{file}: seed is {recipe.seed}; it must be between 0 and {2**32 - 1}")
    _check_start(recipe.start, f"{file}")
    for stage in recipe.stages:
        _check_stage(stage, f"{file}: stage {stage.name!r}")


def _check_start(start: Start, where: str) -> None:
    found = {
        "a model": start.model is not None,
        "a query_model and a document_model": bool(start.query_model or start.document_model),
        "a pretrained network": start.pretrained is not None,
        "new networks": bool(start.tokenizer or start.query or start.document),
    }
    if len(both := [name for name, there in found.items() if there]) > 1:
        raise CareError(f"{where}: start has {' and '.join(both)}; give one of them")
    if bool(start.query_model) != bool(start.document_model):
        raise CareError(f"{where}: start needs both query_model and document_model")
    named = start.model or start.query_model or start.pretrained
    if not named and not (start.tokenizer and start.query and start.document):
        raise CareError(
            f"{where}: start needs a model, or query_model and document_model, or pretrained, or a tokenizer, a query "
            "and a document encoder"
        )
    if start.pretrained and not start.pretrained.files:
        raise CareError(f"{where}: pretrained needs files, whose pieces are kept")
    if start.pretrained and start.pretrained.min_count < 1:
        raise CareError(f"{where}: min_count must be above 0")
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
    if stage.frozen_layers < 0:
        raise CareError(f"{where}: frozen_layers must not be below 0")
    if wrong := [source.file for source in stage.data if source.limit is not None and source.limit < 1]:
        raise CareError(f"{where}: the limit of {wrong[0]} must be above 0")
    for name, most in (("warmup_ratio", 1.0), ("weight_decay", math.inf), ("negatives", math.inf)):
        if not 0 <= getattr(stage, name) <= most:
            raise CareError(f"{where}: {name} must be from 0 to {most:g}")
    if not 0 <= stage.start_weight < 1:
        raise CareError(
            f"{where}: start_weight is {stage.start_weight}; it must be from 0, for the trained weights alone, to below 1"
        )
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
        raise CareError(
            f"{where}: alignment trains towards the document encoder; set a teacher to train the document encoder itself"
        )
    if stage.layers and stage.method != "alignment":
        raise CareError(f"{where}: layers is for method alignment, not {stage.method}; remove it")
    if stage.teacher is not None and stage.method != "alignment":
        raise CareError(f"{where}: teacher is for method alignment, not {stage.method}; remove it")
