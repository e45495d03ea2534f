"""Runs one stage with sentence-transformers' trainer: resumable, and stopped if the loss diverges."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import MultiDatasetBatchSamplers
from transformers import PrinterCallback, TrainerCallback

from care_accel.encoding.loading.quiet import quiet_transformers
from care_accel.errors import CareError
from care_accel.training.data.batches import LengthGroupedBatchSampler
from care_accel.training.processes import main_process_first, processes
from care_accel.training.progress import ProgressCallback, plot_losses
from care_accel.training.recipe import Stage

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer


_WEIGHTS = "trained.safetensors"
STATE, PLOT = "trainer_state.json", "loss.png"
# Environment variable of the trainer's TensorBoard integration.
TENSORBOARD = "TENSORBOARD_LOGGING_DIR"


class _Trainer(SentenceTransformerTrainer):
    """Saves only trainable weights in checkpoints, as a LoRA adapter is small."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({n: p.detach().contiguous() for n, p in self._trained().items()}, folder / _WEIGHTS)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        saved = load_file(Path(checkpoint_path) / _WEIGHTS)
        with torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(saved[name])

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}


class _StopIfDiverged(TrainerCallback):
    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(float(loss)):
            raise CareError(
                f"stage {self._stage.name!r}: the loss is {loss} at step {state.global_step}; lower learning_rate "
                f"({self._stage.learning_rate}) or raise temperature ({self._stage.temperature})"
            )


def fit(
    library_model: SentenceTransformer,
    tables: dict[str, Dataset],
    loss: torch.nn.Module,
    stage: Stage,
    work: Path,
    seed: int,
    *,
    routes: dict[str, str] | None = None,
) -> None:
    """Train a model in place; resumes from the last checkpoint below ``work``.

    Parameters
    ----------
    library_model : SentenceTransformer
    tables : dict of str to datasets.Dataset
        Every batch comes from one of them, sampled in proportion to their lengths.
    loss : torch.nn.Module
    stage : Stage
    work : Path
        ``trainer_state.json`` with the losses and their plot ``loss.png`` are written there at the end.
    seed : int
    routes : dict, optional
        The Router's route of each column.

    Raises
    ------
    CareError
        The loss is not finite.
    """
    gpu = torch.cuda.is_available()
    # A batch is split over processes: its rows must have the same columns, and InfoNCE gathers equal parts.
    count = processes().num_processes
    tensorboard = TENSORBOARD in os.environ
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(work / "checkpoints"),
        num_train_epochs=stage.epochs,
        per_device_train_batch_size=stage.batch_size * count,
        accelerator_config={"split_batches": count > 1},
        dataloader_drop_last=count > 1,
        learning_rate=stage.learning_rate,
        warmup_steps=stage.warmup_ratio,
        weight_decay=stage.weight_decay,
        bf16=stage.bf16,
        activation_checkpointing=stage.gradient_checkpointing,
        use_cpu=not gpu,
        seed=seed,
        data_seed=seed,
        batch_sampler=LengthGroupedBatchSampler,
        multi_dataset_batch_sampler=MultiDatasetBatchSamplers.PROPORTIONAL,
        router_mapping=routes or {},
        save_steps=stage.save_steps,
        save_total_limit=1,
        logging_steps=20,
        logging_nan_inf_filter=False,
        report_to=["tensorboard"] if tensorboard else [],
        disable_tqdm=True,
        dataloader_pin_memory=gpu,
        ddp_find_unused_parameters=False,
    )
    shown = ProgressCallback(stage.name)
    trainer = _Trainer(
        model=library_model,
        args=arguments,
        train_dataset=tables,
        loss=loss,
        callbacks=[_StopIfDiverged(stage), shown],
    )
    with main_process_first():
        checkpoint = _last_whole_checkpoint(work / "checkpoints")
    trainer.remove_callback(PrinterCallback)
    try:
        with quiet_transformers():  # a progress bar for every file of a checkpoint
            trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        shown.stop()
    if trainer.is_world_process_zero():
        trainer.state.save_to_json(str(work / STATE))
        plot_losses(trainer.state.log_history, stage.name, work / PLOT)


def _last_whole_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint, and remove incomplete ones."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda c: -int(c.name.rpartition("-")[2])):
        if (checkpoint / "trainer_state.json").is_file():  # written last
            return str(checkpoint)
        shutil.rmtree(checkpoint)
    return None
