"""Loads a curation's configuration: validates it before any work starts and makes its paths absolute."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from care_accel.curation.config import HIGHEST, LOWEST, Config, JudgeConfig, is_prompt_file
from care_accel.errors import CareError
from care_accel.fields import build, read_yaml

_NAME = re.compile(r"[\w-][\w.-]*")


def load_config(file: str | Path) -> Config:
    """Load and validate a configuration.

    Parameters
    ----------
    file : str or Path
        Paths in it are relative to its folder.

    Raises
    ------
    CareError
        The file is missing or not YAML, or a field is unknown, missing, of the wrong type or out of range.
    """
    file = Path(file)
    config = build(Config, read_yaml(file), str(file))
    _check(config, file)
    return _with_absolute_paths(config, file.absolute().parent)


def _with_absolute_paths(config: Config, base: Path) -> Config:
    def absolute(path: str) -> str:
        return str((base / path).resolve())

    def model(name: str) -> str:
        """Return the folder of a model if there is one relative to the file, else the name unchanged."""
        return absolute(name) if name != "bm25" and (base / name).is_dir() else name

    repaired, prompt = config.false_negatives.file, config.judging.prompt
    changes: dict[str, Any] = {
        "output": absolute(config.output),
        "data": None if config.data is None else absolute(config.data),
        "candidates": replace(
            config.candidates, retrievers=[model(name) for name in config.candidates.retrievers]
        ),
        "judging": replace(config.judging, prompt=absolute(prompt) if is_prompt_file(prompt) else prompt),
        "false_negatives": replace(
            config.false_negatives, file=None if repaired is None else absolute(repaired)
        ),
    }
    if (train := config.train_data) is not None:
        changes["train_data"] = replace(
            train, texts=[absolute(path) for path in train.texts], model=model(train.model)
        )
    if (leaks := config.leak_check) is not None:
        files, folders = ([absolute(path) for path in side] for side in (leaks.train, leaks.evaluation))
        changes["leak_check"] = replace(leaks, train=files, evaluation=folders)
    if (sts := config.sts) is not None:
        changes["sts"] = replace(sts, synonyms=absolute(sts.synonyms), sentences=absolute(sts.sentences))
    return replace(config, **changes)


def _check(config: Config, file: Path) -> None:
    pool = config.candidates
    if not pool.retrievers:
        raise CareError(f"{file}: candidates: retrievers is empty; name at least one, such as bm25")
    if len(set(pool.retrievers)) < len(pool.retrievers):
        raise CareError(f"{file}: candidates: retrievers has a duplicate; remove it")
    _above_0(pool, ("depth", "pool"), f"{file}: candidates")
    if not 0 <= pool.constant < math.inf:
        raise CareError(f"{file}: candidates: constant must not be below 0")
    names = [judge.name for judge in config.judges]
    if len(set(names)) < len(names):
        raise CareError(
            f"{file}: judges: two judges have the same name; give each its own, so that their judgements are not mixed"
        )
    for judge in config.judges:
        _check_judge(judge, f"{file}: judge {judge.name!r}")
    vote = config.vote
    if not LOWEST < vote.cutoff <= HIGHEST:
        raise CareError(
            f"{file}: vote: cutoff must be above {LOWEST} and at most {HIGHEST}, the highest grade"
        )
    if vote.rule != "mean" and vote.cutoff != int(vote.cutoff):
        raise CareError(f"{file}: vote: cutoff must be an integer for rule {vote.rule}")
    _above_0(config.sample, ("size",), f"{file}: sample")
    _above_0(config.false_negatives, ("grade",), f"{file}: false-negatives")
    if (train := config.train_data) is not None:
        if not train.texts:
            raise CareError(f"{file}: train-data: texts is empty; name at least one file")
        _above_0(train, ("seeds", "depth"), f"{file}: train-data")
        if train.neighbours < 0 or train.negatives < 0:
            raise CareError(f"{file}: train-data: neighbours and negatives must not be below 0")
        if train.margin is not None and not 0 <= train.margin <= 1:
            raise CareError(f"{file}: train-data: margin must be from 0 to 1")
        _share(train.near_duplicates, f"{file}: train-data")
    if (leaks := config.leak_check) is not None:
        if not leaks.train or not leaks.evaluation:
            raise CareError(f"{file}: leak-check needs both train and evaluation")
        _share(leaks.near_duplicates, f"{file}: leak-check")
        if leaks.contained < 0:
            raise CareError(f"{file}: leak-check: contained must not be below 0")
    if (sts := config.sts) is not None:
        _above_0(sts, ("size", "a_term"), f"{file}: sts")
        if not LOWEST <= sts.changed_to < sts.same_from <= HIGHEST:
            raise CareError(f"{file}: sts: changed_to must be below same_from, both grades on the scale")
        if sts.writer is not None and sts.writer not in names:
            raise CareError(
                f"{file}: sts: writer {sts.writer!r} is not a judge; known are {', '.join(names)}"
            )


def _check_judge(judge: JudgeConfig, where: str) -> None:
    if not _NAME.fullmatch(judge.name):
        raise CareError(
            f"{where}: invalid name; use letters, digits, '-', '_' and, after the first character, '.'"
        )
    address = urlsplit(judge.base_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise CareError(
            f"{where}: base_url {judge.base_url!r} is not an HTTP URL such as http://127.0.0.1:8000/v1"
        )
    if address.username or address.password:
        raise CareError(
            f"{where}: base_url contains credentials; put the key into an environment variable and set key to its name"
        )
    if judge.key is not None and not re.fullmatch(r"[A-Za-z_]\w*", judge.key, re.ASCII):
        # The value is not printed: it is probably the key.
        raise CareError(f"{where}: key must be the NAME of an environment variable, never the key itself")
    _above_0(judge, ("at_once", "timeout", "requests_a_minute", "tokens_a_minute", "max_tokens"), where)
    if judge.retries < 0 or not 0 <= judge.temperature < math.inf:
        raise CareError(f"{where}: retries and temperature must not be below 0")
    if not all(0 <= price < math.inf for price in (judge.price.input, judge.price.output)):
        raise CareError(f"{where}: price must not be below 0")


def _above_0(values: object, names: tuple[str, ...], where: str) -> None:
    for name in names:
        value = getattr(values, name)
        if value is not None and not 0 < value < math.inf:
            raise CareError(f"{where}: {name} must be a number above 0")


def _share(value: float, where: str) -> None:
    if not 0 < value <= 1:
        raise CareError(f"{where}: near_duplicates must be above 0 and at most 1")
