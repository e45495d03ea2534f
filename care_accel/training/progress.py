"""Progress of a stage: a bar on a terminal, log messages otherwise, and a plot of the loss."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

log = logging.getLogger(__name__)

# Interval of log messages without a terminal.
_LOG_EVERY_S = 30.0
# Half width of the moving average in the plot, in points.
_SMOOTHING = 10


class ProgressCallback(TrainerCallback):
    """Trainer callback: a progress bar on a terminal, log messages otherwise."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = self._started = 0.0
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the bar, from the step that a resumed run continues at."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if not state.is_world_process_zero:
            return
        self._started = self._last_line = time.monotonic()
        self._first_step = state.global_step
        console = Console(stderr=True)
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task(self._stage, total=state.max_steps, completed=state.global_step)
            self._bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        """Show the loss."""
        loss = (logs or {}).get("loss")
        if loss is None or not state.is_world_process_zero:
            return
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=f"{self._stage}, loss {float(loss):.4f}")
        elif (now := time.monotonic()) - self._last_line >= _LOG_EVERY_S:
            self._last_line = now
            done = state.global_step - self._first_step
            left = (now - self._started) / done * (state.max_steps - state.global_step)
            log.info(
                "stage %s: step %d of %d, loss %.4f, %.0f min left",
                self._stage,
                state.global_step,
                state.max_steps,
                float(loss),
                left / 60,
            )

    def stop(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()


def plot_losses(history: Sequence[Mapping[str, Any]], stage: str, file: Path) -> None:
    """Plot a stage's loss over its steps, raw and smoothed, to a PNG file.

    Parameters
    ----------
    history : sequence of mapping
        ``log_history`` of the trainer's state; entries without a loss are skipped.
    stage : str
    file : Path
    """
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    import numpy as np
    from matplotlib import pyplot

    points = [(entry["step"], float(entry["loss"])) for entry in history if "loss" in entry]
    if not points:
        return
    steps, losses = np.array(points).T
    around = [slice(max(0, i - _SMOOTHING), i + _SMOOTHING + 1) for i in range(len(losses))]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(steps, losses, color="0.75", linewidth=0.8, label="raw")
    axes.plot(steps, [losses[near].mean() for near in around], label=f"mean of {2 * _SMOOTHING + 1} points")
    axes.set(title=f"stage {stage}", xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
