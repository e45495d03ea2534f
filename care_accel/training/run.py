"""Runs a recipe: stages in sequence, each saved as a dual encoder, resumable."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from care_accel.encoding import ROLES, DualEncoder
from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.loading.dense import store
from care_accel.encoding.loading.int8_weights import save_int8
from care_accel.encoding.loading.quiet import save_network
from care_accel.encoding.loading.sources import MANIFEST, Source, Sources
from care_accel.errors import CareError, tells_full_disk
from care_accel.fields import build
from care_accel.files import write_json
from care_accel.folders import make_folder
from care_accel.training.data.rows import check_rows
from care_accel.training.fitting import PLOT, STATE, TENSORBOARD
from care_accel.training.methods.alignment import train_alignment
from care_accel.training.methods.contrastive import train_contrastive
from care_accel.training.methods.joint import train_joint
from care_accel.training.methods.language import train_language
from care_accel.training.networks import initial_model, pretrained_start
from care_accel.training.processes import main_process_first, processes
from care_accel.training.recipe import Recipe, Stage
from care_accel.training.recipe_file import load_recipe
from care_accel.version import __version__

log = logging.getLogger(__name__)

RECORD = "training.json"
_PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "datasets", "accelerate")
_METHODS = {
    "joint": train_joint,
    "alignment": train_alignment,
    "contrastive": train_contrastive,
    "language": train_language,
}


def train(
    recipe_file: str | Path,
    data_dir: str | Path,
    output: str | Path | None = None,
    *,
    tensorboard: bool = False,
) -> DualEncoder:
    """Run a recipe and return the last stage's model.

    Stages already finished by the same recipe on the same data are skipped; an interrupted one resumes from its last
    checkpoint. Each stage's folder below ``output`` is a dual encoder for `DualEncoder.from_pretrained`, with a record
    of the recipe, data hashes and versions.

    Parameters
    ----------
    recipe_file : str or Path
    data_dir : str or Path
        Base folder of the recipe's data files.
    output : str or Path, optional
        ``runs/<name of the recipe>`` by default.
    tensorboard : bool
        Also write TensorBoard events to ``output/tensorboard/<stage>``.

    Raises
    ------
    CareError
        The recipe or the data is invalid; checked before training starts. Or the disk is full.
    """
    recipe = load_recipe(recipe_file)
    data_dir, output = Path(data_dir), Path(output or Path("runs") / recipe.name)
    hashes = _hash_data(recipe, data_dir)
    # All files are validated first, so that no stage is wasted by an invalid row of a later one.
    for stage in recipe.stages:
        check_rows(stage, data_dir)
    make_folder(output, "--output")
    revisions = _start_revisions(recipe)
    model: DualEncoder | None = None
    with tells_full_disk(output, "what is trained is kept; free some space and run the same recipe again"):
        for position, stage in enumerate(recipe.stages):
            folder, work = output / stage.name, output / f".{stage.name}-work"
            record = _record(recipe, position, hashes, revisions)
            if _finished(folder, record):
                log.info("stage %s: already finished, skipped", stage.name)
            else:
                with _events(output / "tensorboard" / stage.name if tensorboard else None):
                    _train_stage(recipe, position, model, data_dir, work, folder, record)
            model = DualEncoder.from_pretrained(folder)
    assert model is not None  # the recipe's check: at least one stage
    return model


@contextmanager
def _events(folder: Path | None) -> Iterator[None]:
    """Direct the trainer's TensorBoard integration to a folder, by its environment variable."""
    if folder is None:
        yield
        return
    before = os.environ.get(TENSORBOARD)
    os.environ[TENSORBOARD] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[TENSORBOARD]
        else:
            os.environ[TENSORBOARD] = before


def _train_stage(
    recipe: Recipe,
    position: int,
    model: DualEncoder | None,
    data_dir: Path,
    work: Path,
    folder: Path,
    record: dict[str, Any],
) -> None:
    """Train one stage below ``work`` and move its model to ``folder`` atomically."""
    stage = recipe.stages[position]
    # The other processes find the files of the main one.
    with main_process_first():
        _discard_other_run(work, record)
        if model is None:
            model = initial_model(recipe, data_dir, work / "initial")
    log.info("stage %s: %s", stage.name, stage.method)
    started = time.monotonic()
    trained = _METHODS[stage.method](model, stage, data_dir, work, recipe.seed)
    record["seconds"] = round(time.monotonic() - started, 1)
    if processes().is_main_process:
        # Intermediate models stay in float32.
        last = position + 1 == len(recipe.stages)
        _store(trained, recipe, work, record, recipe.save_dtype if last else "float32")
        os.replace(work / "model", folder)  # an existing stage folder is complete
        shutil.rmtree(work)
    processes().wait_for_everyone()


def _store(trained: DualEncoder, recipe: Recipe, work: Path, record: dict[str, Any], dtype: str) -> None:
    """Save a stage's model and its record to ``work/model``."""
    found = {}
    for role in ROLES:
        checkpoint, place = trained.source(role).checkpoint, work / "final" / role
        network = checkpoint.load_network("float32" if dtype == "int8" else dtype)
        save_network(network, place)
        if dtype == "int8":
            (place / "model.safetensors").unlink()
            save_int8({name: values.numpy() for name, values in network.state_dict().items()}, place)
        store(checkpoint.dense_files, place)
        checkpoint.load_tokenizer().save_pretrained(place)
        found[role] = Source(Checkpoint(place), trained.spec(role))
    model = DualEncoder(Sources(recipe.name, found["query"], found["document"]))
    shutil.rmtree(work / "model", ignore_errors=True)
    model.save_pretrained(work / "model", name=recipe.name)
    write_json(work / "model" / RECORD, record)
    for name in (STATE, PLOT):
        if (work / name).is_file():
            shutil.copy(work / name, work / "model" / name)


def _hash_data(recipe: Recipe, data_dir: Path) -> dict[str, str]:
    """Hash all data files of the recipe; fails for a missing one."""
    if not data_dir.is_dir():
        raise CareError(f"{data_dir}: no such folder; set --data-dir to the folder of the recipe's files")
    names = _data_files(recipe, recipe.stages)
    for name in sorted(names):
        if not (data_dir / name).is_file():
            raise CareError(f"{data_dir / name}: no such file; check the recipe and --data-dir")
    return {name: hashlib.sha256((data_dir / name).read_bytes()).hexdigest() for name in sorted(names)}


def _data_files(recipe: Recipe, stages: Sequence[Stage]) -> set[str]:
    tokens = recipe.start.tokenizer or recipe.start.pretrained
    return {*(tokens.files if tokens else []), *(source.file for stage in stages for source in stage.data)}


def _start_revisions(recipe: Recipe) -> dict[str, str]:
    model = pretrained_start(recipe.start)
    return {} if model is None else {role: model.revision(role) for role in ROLES}


def _record(
    recipe: Recipe, position: int, hashes: dict[str, str], revisions: dict[str, str]
) -> dict[str, Any]:
    """Return the provenance of a stage: the recipe and the data up to it, the initial model, versions."""
    values = dataclasses.asdict(recipe)
    values["stages"] = values["stages"][: position + 1]
    needed = _data_files(recipe, recipe.stages[: position + 1])
    return {
        "recipe": values,
        "data": {name: digest for name, digest in hashes.items() if name in needed},
        "start": revisions,
        "versions": {"care-accel": __version__} | {name: version(name) for name in _PACKAGES},
    }


def _same_run(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if any(one.get(key) != other.get(key) for key in ("data", "start")):
        return False
    try:  # as recipes: a record of an earlier release lacks the fields that were added since
        first, second = (build(Recipe, record["recipe"], RECORD) for record in (one, other))
    except (CareError, KeyError):
        return False
    return first == second


def _finished(folder: Path, record: dict[str, Any]) -> bool:
    if not (folder / MANIFEST).is_file():
        return False
    file = folder / RECORD
    if not file.is_file() or not _same_run(json.loads(file.read_text(encoding="utf-8")), record):
        raise CareError(
            f"{folder} has a model of another recipe or other data; choose another --output or remove it"
        )
    return True


def _discard_other_run(work: Path, record: dict[str, Any]) -> None:
    """Discard checkpoints of another recipe or other data, which would be resumed silently."""
    file = work / RECORD
    if work.is_dir():
        kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if _same_run(kept, record):
            return
        log.warning("%s has checkpoints of another recipe; discarding them", work)
        shutil.rmtree(work)
    work.mkdir(parents=True)
    write_json(file, record)
