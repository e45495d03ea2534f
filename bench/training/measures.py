"""What is measured of training steps: their rate, the largest batch that fits, and the rate of a stage's teacher."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from bench.training.step import (
    CHARACTERS,
    Lengths,
    Trainee,
    Weights,
    peak,
    random_texts,
    reset_peak,
    synchronize,
)
from care_accel.encoding import DualEncoder
from care_accel.errors import CareError


def measure_rate(trainee: Trainee, batch_size: int, steps: int, until: float) -> dict[str, Any]:
    """Measure steps of batches as an epoch has them; of the largest halved size that fits, if ``batch_size`` does not.

    Parameters
    ----------
    trainee : Trainee
    batch_size : int
    steps : int
        At most so many, after one that is not measured.
    until : float
        Of the monotonic clock: when not to begin another one. Without time for a second one, the first is measured.

    Raises
    ------
    CareError
        Not even a batch of 1 fits.
    """
    too_large = []
    while batch_size:
        reset_peak(trainee.device)
        found = _steps(trainee, batch_size, steps, until)
        if found is not None:
            return {"batch_size": batch_size, "does_not_fit": too_large} | found | peak(trainee.device)
        too_large.append(batch_size)
        batch_size //= 2
    raise CareError(f"stage {trainee.stage.name!r}: not even a batch of 1 fits; give more --memory-gb")


def _steps(trainee: Trainee, batch_size: int, steps: int, until: float) -> dict[str, Any] | None:
    """Measure steps, without the first one if there is time for another; None if one does not fit."""
    done: list[dict[str, Any]] = []
    for batch in map(trainee.tokenize, trainee.batches(batch_size)):
        before = trainee.positions
        synchronize(trainee.device)
        begun = time.perf_counter()
        if not trainee.fits(batch):
            return None
        synchronize(trainee.device)
        seconds = time.perf_counter() - begun
        needed, computed = trainee.operations(batch)
        done.append(
            {
                "seconds": seconds,
                "texts": sum(len(column["attention_mask"]) for column in batch[0]),
                "tokens": sum(int(column["attention_mask"].sum()) for column in batch[0]),
                "positions": (trainee.positions - before) / (2 if trainee.cached else 1),
                "needed": needed,
                "computed": computed,
            }
        )
        if len(done) > steps or time.monotonic() + seconds > until:
            break
    measured = done[1:] or done
    total = {key: sum(one[key] for one in measured) for key in done[0]}
    return {
        "steps": len(measured),
        "warmed_up": len(done) > 1,
        "seconds_a_step": [round(one["seconds"], 4) for one in measured],
        "tokens_a_text": total["tokens"] / total["texts"],
        "padding": 1 - total["tokens"] / total["positions"],
        "texts_per_second": total["texts"] / total["seconds"],
        "tokens_per_second": total["tokens"] / total["seconds"],
        "operations_per_second": total["needed"] / total["seconds"],
        "operations_per_second_with_recomputation": total["computed"] / total["seconds"],
    }


def largest_batch(
    fits: Callable[[int], bool], start: int, most: int, seconds: float = float("inf")
) -> dict[str, Any]:
    """Return the largest batch that fits: doubled until one does not, halved until one does, then halved between them.

    Parameters
    ----------
    fits : callable
        Tries a size.
    start, most : int
        The first size to try, and the largest.
    seconds : float
        Time for all. It is left when the next size would take longer, as by the last one, so ``fits`` is then a lower
        bound.

    Returns
    -------
    dict
        ``fits``, 0 if none does; ``does_not_fit``, None if none was found; ``ended``: ``"found"`` to a sixteenth,
        ``"most"`` or ``"time"``.
    """
    until, size = time.monotonic() + seconds, min(start, most)
    low, high, per_row = 0, None, 0.0
    while True:
        begun = time.monotonic()
        if fits(size):
            low, per_row = size, (time.monotonic() - begun) / size
        else:
            high = size
        if low == most:
            return {"fits": low, "does_not_fit": None, "ended": "most"}
        if high is not None and high - low <= max(1, low // 16):
            return {"fits": low, "does_not_fit": high, "ended": "found"}
        size = min(2 * low, most) if high is None else (low + high) // 2
        if low and time.monotonic() + per_row * size > until:
            return {"fits": low, "does_not_fit": high, "ended": "time"}


def teacher_rate(model: DualEncoder, dtype: str, device: str, lengths: Lengths, texts: int) -> dict[str, Any]:
    """Measure how fast the document encoder makes the vectors of Stage I: tokens to vectors of texts, tokenising included."""
    import torch
    from transformers import AutoModel

    from care_accel.encoding.encoder import Encoder
    from care_accel.encoding.loading.checkpoint import without_pooler
    from care_accel.encoding.runtimes.pytorch import PyTorchRuntime

    checkpoint = model.source("document").checkpoint
    spec = replace(model.spec("document"), dtype=dtype, device=device, prompts={})
    generator = np.random.default_rng(1)
    characters = min(CHARACTERS, checkpoint.config_values["vocab_size"] - 2)
    drawn = lengths.draw("document", texts, generator)
    reset_peak(device)
    with torch.device(device) if device != "cpu" else nullcontext():
        network = AutoModel.from_config(checkpoint.config, dtype=getattr(torch, dtype))
    # Batches of this size are larger than the buckets of CUDA graphs, which take time to capture.
    runtime = PyTorchRuntime(without_pooler(network).eval(), spec, graphs=False)
    encoder = Encoder(spec, checkpoint.load_tokenizer(), runtime)
    encoder.encode(random_texts(drawn[: texts // 8], characters, generator))
    some = random_texts(drawn, characters, generator)
    synchronize(device)
    begun = time.perf_counter()
    encoder.encode(some)
    seconds = time.perf_counter() - begun
    operations = sum(drawn) * Weights.of(network).forward
    return {
        "texts": texts,
        "seconds": round(seconds, 3),
        "texts_per_second": texts / seconds,
        "tokens_per_second": sum(drawn) / seconds,
        "operations_per_second": operations / seconds,
    } | peak(device)
