"""Configuration of an encoder, apart from its weights: everything that determines a text's embedding."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from care_accel.errors import CareError
from care_accel.kernels import ORDERS, POOLINGS, Order, Pooling

Role = Literal["query", "document"]
Task = Literal["retrieval", "reranking", "sts"]
Dtype = Literal["float32", "float16", "bfloat16", "int8"]

ROLES: tuple[Role, ...] = ("query", "document")
TASKS: tuple[Task, ...] = ("retrieval", "reranking", "sts")
DTYPES: tuple[Dtype, ...] = ("float32", "float16", "bfloat16", "int8")
PADDING_SIDES = ("left", "right")
ACTIVATIONS = ("identity", "tanh", "relu", "gelu", "sigmoid", "silu")
PLAIN = "{text}"


@dataclass(frozen=True)
class Dense:
    """A linear layer between pooling and slicing; its weights are in the encoder's folder.

    Parameters
    ----------
    width : int
        Number of outputs.
    activation : {"identity", "tanh", "relu", "gelu", "sigmoid", "silu"}
        Applied to the outputs; ``gelu`` is the exact one.
    bias : bool
    normalize : bool
        L2-normalise the input first.

    Raises
    ------
    CareError
        A value is not allowed; the message names the field.
    """

    width: int
    activation: str = "identity"
    bias: bool = True
    normalize: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.width, bool) or not isinstance(self.width, int) or self.width < 1:
            raise CareError(f"encoder spec: dense width is {self.width!r}; it must be a positive integer")
        if self.activation not in ACTIVATIONS:
            raise CareError(
                f"encoder spec: dense activation is {self.activation!r}; choose one of {', '.join(ACTIVATIONS)}"
            )
        for name in ("bias", "normalize"):
            if not isinstance(getattr(self, name), bool):
                raise CareError(
                    f"encoder spec: dense {name} is {getattr(self, name)!r}; it must be true or false"
                )


@dataclass(frozen=True)
class EncoderSpec:
    """Configuration of one encoder.

    Parameters
    ----------
    pooling : {"first", "last", "mean"}
        First-token (CLS), last-token or mean pooling.
    order : {"normalize-then-slice", "slice-then-normalize"}
        CARE normalises at full width, then slices; most other models slice, then normalise.
    width : int
        Embedding dimension, at most the network's hidden size, or the width of the last dense layer.
    prompts : mapping of str to str
        One template per task (``retrieval``, ``reranking``, ``sts``), with ``{text}`` as the placeholder. ``default``
        applies to tasks without a template of their own; without it they get the plain text.
    max_tokens : int
        Longer inputs are truncated at the end. Prompt and special tokens count.
    padding_side : {"left", "right"}
        Side on which shorter texts of a batch are padded. Embeddings do not depend on it.
    dtype : {"float32", "float16", "bfloat16", "int8"}
        Precision of the network; embeddings are always float32. ``int8`` needs the native runtime.
    device : str
        ``"auto"`` (a GPU if there is one), or a torch device such as ``"cpu"`` or ``"cuda:1"``.
    dense : sequence of Dense
        Linear layers between pooling and slicing, in order; none by default.
    include_prompt : bool
        Whether pooling includes the tokens of the prompt before ``{text}``, and the special tokens before those. If not,
        attention still sees them. The last token of a text is always pooled.

    Raises
    ------
    CareError
        A value is not allowed; the message names the field.
    """

    pooling: Pooling
    order: Order
    width: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    max_tokens: int = 512
    padding_side: Literal["left", "right"] = "right"
    dtype: Dtype = "float32"
    device: str = "auto"
    dense: tuple[Dense, ...] = ()
    include_prompt: bool = True

    def __post_init__(self) -> None:
        for name, allowed in (
            ("pooling", POOLINGS),
            ("order", ORDERS),
            ("padding_side", PADDING_SIDES),
            ("dtype", DTYPES),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise CareError(f"encoder spec: {name} is {value!r}; choose one of {', '.join(allowed)}")
        for name in ("width", "max_tokens"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise CareError(f"encoder spec: {name} is {value!r}; it must be a positive integer")
        if not isinstance(self.device, str):
            raise CareError(f"encoder spec: device is {self.device!r}; it must be a str such as 'cpu'")
        if not isinstance(self.prompts, Mapping):
            raise CareError("encoder spec: prompts must map tasks to templates")
        for task, template in self.prompts.items():
            if task not in (*TASKS, "default"):
                raise CareError(
                    f"encoder spec: prompts has an unknown task {task!r}; "
                    f"choose among {', '.join(TASKS)} and default"
                )
            if not isinstance(template, str) or template.count(PLAIN) != 1:
                raise CareError(f"encoder spec: the prompt of {task!r} must contain {PLAIN} exactly once")
        object.__setattr__(self, "prompts", dict(self.prompts))
        if not isinstance(self.include_prompt, bool):
            raise CareError(
                f"encoder spec: include_prompt is {self.include_prompt!r}; it must be true or false"
            )
        object.__setattr__(self, "dense", _dense_layers(self.dense))
        if self.dense and self.width > self.dense[-1].width:
            raise CareError(
                f"encoder spec: width is {self.width}, but the last dense layer has {self.dense[-1].width} outputs; use "
                "a smaller width"
            )

    def prompt(self, task: Task) -> str:
        """Return the template of a task, with ``{text}`` as the placeholder.

        Raises
        ------
        CareError
            ``task`` is not ``retrieval``, ``reranking`` or ``sts``.
        """
        if task not in TASKS:
            raise CareError(f"unknown prompt task {task!r}; choose one of {', '.join(TASKS)}")
        return self.prompts.get(task, self.prompts.get("default", PLAIN))

    def format(self, text: str, task: Task) -> str:
        """Apply a task's prompt to a text; training and inference both use this function."""
        return self.prompt(task).replace(PLAIN, text)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, as stored in ``care.json``.

        ``dense`` and ``include_prompt`` are left out at their defaults: earlier releases read such a file, and an encoder
        without them keeps its `identity`.
        """
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del values["dense"], values["include_prompt"]
        return values | {"prompts": dict(self.prompts)} | self._optional()

    def _optional(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if self.dense:
            values["dense"] = [dataclasses.asdict(layer) for layer in self.dense]
        if not self.include_prompt:
            values["include_prompt"] = False
        return values

    @property
    def compiled(self) -> dict[str, Any]:
        """The fields, as JSON values, that are compiled into an exported graph; prompts and lengths are not."""
        return {"pooling": self.pooling, "order": self.order, "width": self.width} | self._optional()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "encoder spec") -> EncoderSpec:
        """Build a spec from the values of ``care.json``; ``where`` names them in error messages.

        Raises
        ------
        CareError
            A field is missing, unknown or not allowed.
        """
        if not isinstance(values, Mapping):
            raise CareError(f"{where}: the spec must be an object, not a {type(values).__name__}")
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise CareError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")
        try:
            return cls(**values)
        except TypeError as missing:
            raise CareError(f"{where}: {str(missing).removeprefix('EncoderSpec.__init__() ')}") from None
        except CareError as wrong:
            raise CareError(str(wrong).replace("encoder spec", where, 1)) from None

    @property
    def identity(self) -> str:
        """A hash of the fields that determine an embedding; dtype, device and padding side affect only its rounding."""
        rounding_only = ("dtype", "device", "padding_side")
        values = {k: v for k, v in self.to_dict().items() if k not in rounding_only}
        return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _dense_layers(values: Any) -> tuple[Dense, ...]:
    """Return dense layers from layers or their JSON values."""
    if not isinstance(values, list | tuple):
        raise CareError(f"encoder spec: dense is {values!r}; it must be a list of layers")
    layers = []
    for value in values:
        if isinstance(value, Mapping):
            known = {f.name for f in dataclasses.fields(Dense)}
            if wrong := sorted(({"width"} - set(value)) | (set(value) - known)):
                raise CareError(
                    f"encoder spec: a dense layer has a missing or unknown field {wrong[0]!r}; known are "
                    f"{', '.join(sorted(known))}"
                )
            value = Dense(**value)
        if not isinstance(value, Dense):
            raise CareError(f"encoder spec: dense has {value!r}; each layer must be an object with 'width'")
        layers.append(value)
    return tuple(layers)


_RETRIEVAL = "Given a Chinese medical question, retrieve medical documents that answer the question."
_RERANKING = (
    "Based on a Chinese medical question, evaluate and rank the medical information "
    "that provide answers to the question."
)
_STS = "Retrieve semantically similar text."


def _instruct(instruction: str) -> str:
    return f"<instruct>{instruction}\n<query>{PLAIN}"


# Paper, section on the model: queries have an instruction for every task; documents have one for STS only, where both
# sentences use the same.
_CARE_PROMPTS: dict[Role, dict[str, str]] = {
    "query": {
        "retrieval": _instruct(_RETRIEVAL),
        "reranking": _instruct(_RERANKING),
        "sts": _instruct(_STS),
    },
    "document": {"sts": _instruct(_STS)},
}


def preset(name: str, role: Role, *, hidden_size: int, causal: bool, width: int | None = None) -> EncoderSpec:
    """Return the preset spec for a network without ``care.json``.

    Parameters
    ----------
    name : {"care", "sentence-transformers"}
        ``care``: first-token pooling for queries, last-token pooling with left padding for documents, normalise then
        slice to 768, CARE's instructions, 512 tokens.
        ``sentence-transformers``: mean pooling (last-token for a causal network), full width, slice then normalise, no
        prompt.
    role : {"query", "document"}
    hidden_size : int
        The network's hidden size; the width never exceeds it.
    causal : bool
        Whether the network uses causal attention.
    width : int, optional
        Embedding dimension instead of the preset's.

    Raises
    ------
    CareError
        There is no such preset.
    """
    if name == "care":
        # Pooling depends on the network, not the role: a document encoder that also encodes queries keeps its pooling
        # (paper, symmetric rows of the ablation).
        return EncoderSpec(
            pooling="last" if causal else "first",
            order="normalize-then-slice",
            width=width or min(768, hidden_size),
            prompts=_CARE_PROMPTS[role],
            padding_side="left" if causal else "right",
        )
    if name == "sentence-transformers":
        return EncoderSpec(
            pooling="last" if causal else "mean",
            order="slice-then-normalize",
            width=width or hidden_size,
            padding_side="left" if causal else "right",
        )
    raise CareError(f"unknown preset {name!r}; choose care or sentence-transformers")
