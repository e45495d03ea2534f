"""One training step of a recipe's stage, on networks with random weights that are made on the device."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from care_accel.encoding import ROLES, DualEncoder, Role
from care_accel.errors import CareError
from care_accel.files import write_json
from care_accel.training.recipe import Stage

COUNTED = (
    "Operations are 2 for each weight of the layers and token that is not padding: once for the forward pass, once for the "
    "gradients of activations, and, of trained weights (all, or LoRA's), once for their own gradients. With recomputation: once "
    "more for gradient checkpointing, and once more for gradient caching. Not counted: embeddings, the products of attention "
    "scores, norms, losses, the optimizer."
)
PAD, UNKNOWN = "[PAD]", "[UNK]"
# Batches that the sampler sorts together.
WINDOW = 64
_FIRST_CHARACTER, CHARACTERS = 0x4E00, 3000


def write_encoder(folder: Path, network: dict[str, Any]) -> Path:
    """Write an encoder folder whose file of weights lacks them all, with a tokenizer of one token a character.

    transformers initialises weights that a file lacks, on the device, so that none are on a disk.
    """
    import torch
    from safetensors.torch import save_file
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    write_json(folder / "config.json", network)
    save_file({"none": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"})
    known = min(CHARACTERS, network["vocab_size"] - 2)
    tokens = [PAD, UNKNOWN, *(chr(_FIRST_CHARACTER + i) for i in range(known))]
    tokenizer = Tokenizer(WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
    return folder


def random_texts(lengths: Sequence[int], characters: int, generator: np.random.Generator) -> list[str]:
    """Return texts of that many tokens each."""
    ends = np.cumsum(lengths)
    codes = generator.integers(_FIRST_CHARACTER, _FIRST_CHARACTER + characters, int(ends[-1]))
    every = codes.astype("<u4").tobytes().decode("utf-32-le")
    return [every[end - length : end] for length, end in zip(lengths, ends, strict=True)]


@dataclass(frozen=True)
class Lengths:
    """The shortest and longest texts of both kinds, in tokens; lengths between are log-uniform."""

    query: tuple[int, int]
    document: tuple[int, int]

    def draw(self, kind: Role, count: int, generator: np.random.Generator) -> list[int]:
        low, high = np.log(getattr(self, kind))
        return [round(length) for length in np.exp(generator.uniform(low, high, count))]

    def longest(self, kind: Role, count: int) -> list[int]:
        return [int(getattr(self, kind)[1])] * count


def columns_of(stage: Stage) -> list[Role]:
    """Return the kinds of the texts of a row: the query, its positive, and negatives if the stage has labels."""
    if stage.method == "alignment":
        return ["document"]  # its texts are those of all fields: eight documents to a query
    labelled = stage.data[0].kind == "triplets"
    return ["query", "document", *(["document"] * stage.negatives if labelled else [])]


class Trainee:
    """A stage's model with its loss and optimizer, and steps of it as the trainer takes them.

    Parameters
    ----------
    model : DualEncoder
    stage : Stage
    device : str
    lengths : Lengths

    Attributes
    ----------
    positions : int
        Tokens that the networks were given so far, with padding, which depends on how the loss joins columns.
    """

    def __init__(self, model: DualEncoder, stage: Stage, device: str, lengths: Lengths) -> None:
        import torch

        from care_accel.training.router import build_library_model

        self.stage, self.device, self.lengths = stage, device, lengths
        self.roles: Sequence[Role] = ROLES if stage.method == "joint" else [stage.role]
        self.columns = columns_of(stage)
        self._generator = np.random.default_rng(0)
        vocabulary = min(model.source(role).checkpoint.config_values["vocab_size"] for role in self.roles)
        self._characters = min(CHARACTERS, vocabulary - 2)
        self._width = model.width
        torch.manual_seed(0)
        # Weights are made where the context says, and so never on the CPU if there is a GPU.
        with torch.device(device) if device != "cpu" else nullcontext():
            self.model = build_library_model(model, stage, self.roles).to(device)
        for name, weights in self.model.named_parameters():
            if weights.ndim > 1 and "lora_" not in name and not bool(weights.any()):  # LoRA begins with zeros
                raise CareError(f"{name} was not initialised; use another release of transformers")
        if stage.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        self.positions = 0
        self.model.register_forward_pre_hook(self._count)
        self.model.train()
        if stage.bf16:
            self._use_autocast()
        self.loss = self._loss()
        self._trained = [p for p in self.model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._trained, lr=stage.learning_rate, weight_decay=stage.weight_decay, fused=device != "cpu"
        )

    def _use_autocast(self) -> None:
        """Run the forward pass in bfloat16 by autocast as accelerate's ``prepare`` does: its outputs are float32."""
        import torch
        from accelerate.utils import convert_outputs_to_fp32

        inside = torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16)
        self.model.forward = convert_outputs_to_fp32(inside(self.model.forward))

    def _count(self, _: Any, inputs: tuple[dict[str, Any]]) -> None:
        self.positions += inputs[0]["input_ids"].numel()

    def _loss(self) -> Any:
        from care_accel.training.losses import Alignment, InfoNCE

        stage = self.stage
        if stage.method == "alignment":
            return Alignment(self.model, stage.temperature, stage.info_nce_weight, stage.mse_weight)
        return InfoNCE(self.model, stage.temperature, stage.widths, stage.mini_batch_size)

    def with_stage(self, stage: Stage) -> Trainee:
        """Change what does not concern the networks, such as gradient caching."""
        self.stage = stage
        self.loss = self._loss()
        return self

    def batches(self, batch_size: int) -> Iterator[list[list[str]]]:
        """Yield batches of the trainer's sampler, each as its columns, over one of its windows."""
        from datasets import Dataset

        from care_accel.training.data.batches import LengthGroupedBatchSampler

        rows = batch_size * WINDOW
        table = Dataset.from_dict(
            {
                str(i): random_texts(
                    self.lengths.draw(kind, rows, self._generator), self._characters, self._generator
                )
                for i, kind in enumerate(self.columns)
            }
        )
        for chosen in LengthGroupedBatchSampler(table, batch_size, drop_last=True):
            batch = table[chosen]
            yield [batch[str(i)] for i in range(len(self.columns))]

    def longest_batch(self, batch_size: int) -> list[list[str]]:
        """Return a batch of texts of full length."""
        return [
            random_texts(self.lengths.longest(kind, batch_size), self._characters, self._generator)
            for kind in self.columns
        ]

    def tokenize(self, batch: list[list[str]]) -> tuple[list[dict[str, Any]], Any]:
        """Return the features of a batch, and its labels, as the trainer's collator makes them."""
        import torch

        features = []
        for i, texts in enumerate(batch):
            task = None if len(self.roles) == 1 else "query" if i == 0 else "document"
            column = self.model.preprocess(texts, task=task)
            features.append(column if task is None else column | {"task": task})
        if self.stage.method != "alignment":
            return features, None
        vectors = torch.from_numpy(self._generator.standard_normal((len(batch[0]), self._width), np.float32))
        return features, torch.nn.functional.normalize(vectors)

    def step(self, batch: tuple[list[dict[str, Any]], Any]) -> float:
        """Take one step on a tokenized batch, and return its loss once the device is done."""
        import torch

        features, labels = batch
        moved = [
            {k: v.to(self.device) if isinstance(v, torch.Tensor) else v for k, v in column.items()}
            for column in features
        ]
        loss = self.loss(moved, None if labels is None else labels.to(self.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._trained, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(loss.detach())

    def fits(self, batch: tuple[list[dict[str, Any]], Any]) -> bool:
        """Take one step, and return whether it fits into memory."""
        try:
            self.step(batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        else:
            return True
        # Out of the handler, whose traceback holds the step's tensors.
        self._optimizer.zero_grad()
        release()
        return False

    def weights(self) -> dict[str, Weights]:
        """Return the weights of the layers by role."""
        routes = self.model[0].sub_modules if len(self.roles) > 1 else {self.roles[0]: self.model}
        return {role: Weights.of(routes[role][0].model) for role in self.roles}

    def operations(self, batch: tuple[list[dict[str, Any]], Any]) -> tuple[int, int]:
        """Return the operations of a step, without and with those that are done again to save memory."""
        weights = self.weights()
        needed = again = 0
        for i, column in enumerate(batch[0]):
            role = self.roles[0] if len(self.roles) == 1 else "query" if i == 0 else "document"
            tokens = int(column["attention_mask"].sum())
            needed += tokens * weights[role].step
            again += tokens * weights[role].forward * self._repeats
        return needed, needed + again

    @property
    def cached(self) -> bool:
        """Whether gradients are cached, for which every text is encoded twice."""
        return self.stage.method != "alignment" and self.stage.mini_batch_size is not None

    @property
    def _repeats(self) -> int:
        return int(self.stage.gradient_checkpointing) + int(self.cached)


@dataclass(frozen=True)
class Weights:
    """Weights of a network's layers, each of which multiplies every token once: fixed ones and trained ones."""

    fixed: int
    trained: int

    @classmethod
    def of(cls, network: Any) -> Weights:
        from care_accel.training.networks import layer_list

        matrices = [p for p in layer_list(network).parameters() if p.ndim > 1]
        trained = sum(p.numel() for p in matrices if p.requires_grad)
        return cls(sum(p.numel() for p in matrices) - trained, trained)

    @property
    def forward(self) -> int:
        """Operations of a token's forward pass."""
        return 2 * (self.fixed + self.trained)

    @property
    def step(self) -> int:
        """Operations of a token's step: forward, gradients of activations, gradients of trained weights."""
        return 2 * self.forward + 2 * self.trained


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error says that the device's memory is full; cuBLAS has no class of its own for it."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "CUBLAS_STATUS_ALLOC_FAILED" in str(error)


def release() -> None:
    """Give back the GPU's memory of what is no longer used."""
    import torch

    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def synchronize(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.synchronize()


def reset_peak(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> dict[str, int | None]:
    """Return the most bytes of tensors, and of what torch had reserved for them; None on a CPU."""
    import torch

    if device == "cpu":
        return {"peak_bytes": None, "peak_reserved_bytes": None}
    return {
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
    }
