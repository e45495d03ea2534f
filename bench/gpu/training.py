"""Measure one training step of each stage of care-0.3b-4b.yaml on a GPU, at true size with random weights.

Writes tokens a second, their share of the GPU's matrix rate, peak memory, and the largest batch that fits into a memory to
a JSON file, after every stage, so that an interrupted run keeps its results. The most valuable stage comes first.

A step is that of the package's trainer: the model of `build_library_model`, the losses of the stages, bfloat16 by autocast,
gradient checkpointing where the recipe has it, clipped gradients, AdamW. Tokenising is not in its time. Texts are random
characters, one a token: queries of 8 to 32 tokens and documents of 30 to 512, log-uniform, in the batches of the trainer's
own sampler. The largest batch is searched with rows at their full lengths, as the longest batch of an epoch has to fit too.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bench.harness import machine
from bench.harness.limits import Limits
from care_accel.errors import CareError
from care_accel.files import write_json
from care_accel.folders import make_folder

if TYPE_CHECKING:
    from bench.training.step import Trainee
    from care_accel.encoding import DualEncoder
    from care_accel.training.recipe import Stage

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "care_accel" / "training" / "recipes" / "care-0.3b-4b.yaml"
PACKAGES = ("torch", "transformers", "sentence_transformers", "accelerate", "datasets")


@dataclass(frozen=True)
class Run:
    """What is measured of a stage, and its share of the time.

    Parameters
    ----------
    stage : str
        Its name in the recipe.
    seconds : float
    changes : dict
        Fields of the stage that differ from the recipe.
    teacher : bool
        Whether the vectors of the stage's teacher are measured instead of its step.
    """

    stage: str
    seconds: float
    changes: dict[str, Any] = field(default_factory=dict)
    teacher: bool = False


# Texts encoded at a time where gradients are cached.
_CACHED = {"mini_batch_size": 32}
RUNS = {
    "document": Run("document", 45),
    "document, gradients cached": Run("document", 40, _CACHED),
    "joint": Run("joint", 35),
    "joint, gradients cached": Run("joint", 30, _CACHED),
    "alignment": Run("alignment", 15),
    "alignment, teacher": Run("alignment", 15, teacher=True),
    "query-unsupervised": Run("query-unsupervised", 12),
    "query-supervised": Run("query-supervised", 12),
}


@dataclass(frozen=True)
class Size:
    """Networks and numbers of steps.

    Parameters
    ----------
    query, document : dict
        Configurations of the networks.
    steps : int
        Measured at most, after one that is not.
    most : int
        The largest batch that is tried.
    teacher_texts : int
    query_tokens, document_tokens : tuple of int
        Of the shortest and longest texts.
    changes : dict
        Fields of every stage that differ from the recipe.
    """

    query: dict[str, Any]
    document: dict[str, Any]
    steps: int
    most: int
    teacher_texts: int
    query_tokens: tuple[int, int] = (8, 32)
    document_tokens: tuple[int, int] = (30, 512)
    changes: dict[str, Any] = field(default_factory=dict)


_TINY = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES = {
    # gte-multilingual-base and Qwen3-4B.
    "full": Size(
        {"model_type": "gte", "vocab_size": 250_048},
        {
            "model_type": "qwen3",
            "vocab_size": 151_936,
            "hidden_size": 2560,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 9728,
            "max_position_embeddings": 40_960,
            "tie_word_embeddings": True,
        },
        steps=6,
        most=4096,
        teacher_texts=256,
    ),
    "smoke": Size(
        {"model_type": "gte", "intermediate_size": 48, **_TINY},
        {"model_type": "qwen3", "intermediate_size": 48, "num_key_value_heads": 1, "head_dim": 16, **_TINY},
        steps=2,
        most=4,
        teacher_texts=16,
        query_tokens=(4, 8),
        document_tokens=(6, 16),
        changes={"batch_size": 2, "negatives": 2, "widths": []},
    ),
}


class Measurement:
    """A run of all stages, and the JSON file of its results.

    Parameters
    ----------
    size : Size
    device : str
    file : Path
    values : dict
        What the file says besides the stages.
    """

    def __init__(self, size: Size, device: str, file: Path, values: dict[str, Any]) -> None:
        from bench.training.step import Lengths

        self.size, self.device, self.file = size, device, file
        self.lengths = Lengths(size.query_tokens, size.document_tokens)
        self.stages: dict[str, dict[str, Any]] = {}
        self.not_measured: dict[str, str] = {}
        self.values = values | {"stages": self.stages, "not_measured": self.not_measured}
        self._limits = Limits(once=device == "cpu")
        self._probe = "float32 rate" if device == "cpu" else "GPU bfloat16 rate"
        self._trainee: Trainee | None = None
        self._trained = ""

    def write(self) -> None:
        """Write what is known so far."""
        write_json(self.file, self.values | {"limits": self._limits.summary()})

    def all(self, runs: dict[str, Run], stages: dict[str, Stage], model: DualEncoder, seconds: float) -> None:
        """Measure runs in their order; what cannot be measured has its reason in the file."""
        until = time.monotonic() + seconds
        left = sum(run.seconds for run in runs.values())
        for name, run in runs.items():
            stage = replace(stages[run.stage], **self.size.changes | run.changes)
            end = time.monotonic() + (until - time.monotonic()) * run.seconds / left
            left -= run.seconds
            reason = lacks(stage, run)
            if reason is None:
                try:
                    self._one(name, run, stage, model, end)
                except CareError as error:
                    reason = str(error)
                except Exception as error:  # the other stages are measured all the same
                    traceback.print_exc()
                    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            if reason is not None:
                self.not_measured[name] = reason
                self._trainee, self._trained = None, ""
            self.write()
            print(line(name, self.stages.get(name, {}), reason), flush=True)

    def _one(self, name: str, run: Run, stage: Stage, model: DualEncoder, end: float) -> None:
        from bench.training.measures import largest_batch, measure_rate, teacher_rate
        from bench.training.step import Trainee, release

        if run.teacher or self._trained != run.stage:
            self._trainee, self._trained = None, ""  # before the next one is made
            release()
        rate = self._limits.sample([self._probe])[self._probe]
        shares = {"matrix_rate": rate, "matrix_rate_of": self._probe}
        if run.teacher:
            # The recipe's spec says float32, and its networks between stages are in float32 too.
            self.stages[name] = shares
            for dtype in ("bfloat16", "float32"):
                found = teacher_rate(model, dtype, self.device, self.lengths, self.size.teacher_texts)
                self.stages[name][dtype] = with_shares(found, rate)
                release()
                self.write()
            return
        begun = time.monotonic()
        if self._trainee is None:
            self._trainee = Trainee(model, stage, self.device, self.lengths)
            self._trained = run.stage
        trainee = self._trainee.with_stage(stage)
        self.stages[name] = shares | {
            "seconds_to_build": round(time.monotonic() - begun, 1),
            "method": stage.method,
            "columns": {kind: trainee.columns.count(kind) for kind in dict.fromkeys(trainee.columns)},
            "weights_of_layers": {role: asdict(weights) for role, weights in trainee.weights().items()},
            "lora": None if stage.lora is None else asdict(stage.lora),
            "gradient_checkpointing": stage.gradient_checkpointing,
            "mini_batch_size": stage.mini_batch_size,
            "recipe_batch_size": stage.batch_size,
        }
        half = time.monotonic() + (end - time.monotonic()) / 2
        found = measure_rate(trainee, stage.batch_size, self.size.steps, half)
        self.stages[name]["step"] = with_shares(found, rate)
        self.write()

        def fits(batch_size: int) -> bool:
            return trainee.fits(trainee.tokenize(trainee.longest_batch(batch_size)))

        self.stages[name]["largest_batch_of_full_lengths"] = largest_batch(
            fits, found["batch_size"], self.size.most, end - time.monotonic()
        )


def with_shares(found: dict[str, Any], rate: float) -> dict[str, Any]:
    """Add the share of a matrix rate, operations per second, to every rate of operations."""
    shares = {
        key.replace("operations_per_second", "share_of_matrix_rate"): value / rate
        for key, value in found.items()
        if key.startswith("operations_per_second")
    }
    return found | shares


def lacks(stage: Stage, run: Run) -> str | None:
    """Return what a run needs and is not there; None if everything is."""
    if stage.lora is not None and importlib.util.find_spec("peft") is None:
        return "LoRA needs peft: pip install peft"
    query = not run.teacher and (stage.method == "joint" or stage.role == "query")
    if query and not has_gte():
        return f"transformers {version('transformers')} has no gte: pip install 'transformers>=5.23'"
    return None


def has_gte() -> bool:
    """Return whether the installed transformers has the query encoder's network."""
    from transformers import CONFIG_MAPPING

    return "gte" in CONFIG_MAPPING


def line(name: str, found: dict[str, Any], reason: str | None) -> str:
    """Return the line that says how a run went."""
    if reason is not None:
        return f"{name}: not measured: {reason}"
    parts = []
    for what in ("step", "bfloat16", "float32"):
        if what in found:
            one = found[what]
            memory = "" if one["peak_bytes"] is None else f", {one['peak_bytes'] / 1e9:.1f} GB"
            size = f" of {one['batch_size']}" if "batch_size" in one else ""
            parts.append(
                f"{what}{size}: {one['tokens_per_second']:,.0f} tokens/s, {one['share_of_matrix_rate']:.0%}{memory}"
            )
    if largest := found.get("largest_batch_of_full_lengths"):
        parts.append(f"largest batch {largest['fits']} ({largest['ended']})")
    return f"{name}: {'; '.join(parts)}"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def positive(text: str) -> float:
    """Return a number above 0."""
    if not 0 < (value := float(text)) < float("inf"):
        raise ValueError(text)
    return value


def prepare_device(size: str, memory_gb: float) -> str:
    """Return the device, whose memory is limited if it is a GPU.

    Raises
    ------
    CareError
        The size needs a GPU and there is none, or its memory is smaller.
    """
    import torch

    if not torch.cuda.is_available():
        if size != "smoke":
            raise CareError(f"--size {size} needs a GPU, and torch sees none; --size smoke runs on a CPU")
        return "cpu"
    total = torch.cuda.get_device_properties(0).total_memory
    if memory_gb * 1e9 > total:
        raise CareError(f"the GPU has {total / 1e9:.1f} GB, fewer than --memory-gb {memory_gb:g}; give less")
    torch.cuda.set_per_process_memory_fraction(memory_gb * 1e9 / total)
    return "cuda"


def main(arguments: list[str] | None = None) -> int:
    parser = _Parser(prog="bench.gpu.training", description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="full", choices=tuple(SIZES))
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "training")
    parser.add_argument("--memory-gb", type=positive, default=80, help="GB (10^9 bytes) that torch may use")
    parser.add_argument("--seconds", type=positive, default=180, help="for all stages together")
    parser.add_argument("--only", default="", metavar="PATTERN", help="only what matches: " + "; ".join(RUNS))
    options = parser.parse_args(arguments)
    # Of peft and sentence-transformers, which use the older name.
    warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
    try:
        runs = {name: run for name, run in RUNS.items() if re.search(options.only, name)}
    except re.error as error:
        parser.error(f"--only {options.only}: {error}")
    if not runs:
        parser.error(f"--only {options.only}: matches none of {'; '.join(RUNS)}")
    if gone := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        parser.error(f"training needs {', '.join(gone)}: pip install {' '.join(gone)}")
    if importlib.util.find_spec("care_accel._native") is None:
        parser.error("care_accel is not built: python setup.py build_ext --inplace")
    try:
        done = measure(SIZES[options.size], runs, options)
    except CareError as error:
        parser.error(str(error))
    return 0 if done else 1


def measure(size: Size, runs: dict[str, Run], options: argparse.Namespace) -> bool:
    """Measure runs, and return whether all of them could be."""
    from bench.training.step import COUNTED, write_encoder
    from care_accel.encoding import DualEncoder
    from care_accel.training.recipe_file import load_recipe

    device = prepare_device(options.size, options.memory_gb)
    make_folder(options.out, "--out")
    recipe = load_recipe(RECIPE)
    described = machine.describe()
    revision, changed = machine.revision()
    values = {
        "recipe": RECIPE.name,
        "size": options.size,
        "memory_gb": None if device == "cpu" else options.memory_gb,
        "counted": COUNTED,
        "machine": described,
        "versions": machine.versions(),
        "revision": revision,
        "changed": changed,
    }
    file = options.out / f"{described['name']}.json"
    with tempfile.TemporaryDirectory() as folder:
        document = write_encoder(Path(folder) / "document", size.document)
        query = write_encoder(Path(folder) / "query", size.query) if has_gte() else document
        model = DualEncoder.from_pretrained(query=query, document=document, preset=recipe.start.preset)
        measurement = Measurement(size, device, file, values)
        measurement.all(runs, {stage.name: stage for stage in recipe.stages}, model, options.seconds)
    print(f"results are in {file}")
    return not measurement.not_measured


if __name__ == "__main__":
    sys.exit(main())
