"""A training run as a YAML file says it, checked field by field before anything starts."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from care_accel.encoding import Role, Task
from care_accel.errors import CareError
from care_accel.kernels import Order, Pooling

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
FieldKind = Literal["triplets", "pairs", "texts"]


@dataclass(frozen=True)
class DataFile:
    """One training file below the data folder.

    Parameters
    ----------
    file : str
        Path relative to the data folder; JSON lines, gzip or plain.
    kind : {"triplets", "pairs", "texts"}
        ``triplets``: {"query", "pos": [...], "neg": [...]}. ``pairs``: {"sentence1", "sentence2",
        "score"}, of which those with the highest score are positives. ``texts``: {"text"}, of which a
        part is the query and the text, with or without that part, the document.
    sentences : bool
        Let ``alignment`` use every sentence of a text beside the text itself.
    query_fields : list of str
        Fields of a triplet that each make a query with the same documents.
    task : {"retrieval", "reranking", "sts"}
        Chooses the prompts.
    """

    file: str
    kind: FieldKind = "triplets"
    sentences: bool = False
    query_fields: list[str] = field(default_factory=lambda: ["query"])
    task: Task = "retrieval"


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation of every linear layer; the paper's values (section on the model) are the defaults.

    Parameters
    ----------
    rank : int
    alpha : float
    """

    rank: int = 32
    alpha: float = 64.0


@dataclass(frozen=True)
class Mining:
    """Hard negatives from the model that a stage starts with, and from BM25.

    Parameters
    ----------
    depth : int
        Documents of each ranking that are looked at.
    margin : float
        How far below its query's positive a negative must score, relative to it: above, it may be an
        answer that nobody labelled.
    count : int
        Negatives kept a query, the hardest.
    """

    depth: int = 50
    margin: float = 0.05
    count: int = 16


@dataclass(frozen=True)
class Stage:
    """One stage: what is trained, on what, and how long.

    Defaults are the paper's for Stage II (section on training): InfoNCE, temperature 0.02, 7 negatives,
    learning rate 1e-4, warm-up 0.05, weight decay 0.05, bfloat16, one epoch. Its Stage I has temperature
    0.1 and two epochs.

    Parameters
    ----------
    name : str
        Folder of the stage's model below the output.
    method : {"joint", "alignment", "contrastive", "language"}
        ``joint``: both encoders by InfoNCE (the paper's Stage II). ``alignment``: one encoder,
        towards the frozen document encoder's vector of the same text (Stage I), or towards a teacher's. ``contrastive``: one encoder on both
        sides by InfoNCE (initialisation). ``language``: one encoder predicts tokens, the next ones if it is
        causal, else masked ones (initialisation of a new network).
    data : list of DataFile
        Every batch comes from a single file. ``alignment`` uses every text in it.
    role : {"query", "document"}
        Which encoder every method but ``joint`` trains.
    teacher : str, optional
        Whose vectors ``alignment`` aims at, if not the document encoder's: ``universal-sentence-encoder``
        (Yang et al., 2020; cut to the model's width) or anything that `DualEncoder.from_pretrained` takes.
    temperature : float
    negatives : int
        Hard negatives a query, where a file has them.
    mining : Mining, optional
        Mine negatives for files of triplets before training, behind those that they have.
    widths : list of int
        Matryoshka: the loss is averaged over these widths; empty for the full one alone.
    info_nce_weight, mse_weight : float
        Of the two losses of ``alignment``.
    mask_ratio : float
        Share of the tokens that ``language`` masks.
    mini_batch_size : int, optional
        Texts of a batch that are in memory at once, for InfoNCE over batches larger than it.
    lora : Lora, optional
        Train low-rank matrices instead of the whole document encoder, or of ``role``; merged at the end.
    epochs, batch_size, learning_rate, warmup_ratio, weight_decay
        As usual; a batch is counted in queries, over one process.
    max_query_tokens, max_document_tokens : int
        Longer inputs are cut in training; the model itself keeps its own limit.
    bf16 : bool
        Automatic mixed precision.
    gradient_checkpointing : bool
        Compute activations twice to hold fewer.
    save_steps : int
        A run that was stopped goes on at the last multiple.
    """

    name: str
    data: list[DataFile]
    method: Literal["joint", "alignment", "contrastive", "language"] = "joint"
    role: Role = "query"
    teacher: str | None = None
    temperature: float = 0.02
    negatives: int = 7
    mining: Mining | None = None
    widths: list[int] = field(default_factory=list)
    info_nce_weight: float = 1.0
    mse_weight: float = 1.0
    mask_ratio: float = 0.3
    mini_batch_size: int | None = None
    lora: Lora | None = None
    epochs: float = 1.0
    batch_size: int = 128
    learning_rate: float = 1e-4
    warmup_ratio: float = 0.05
    weight_decay: float = 0.05
    max_query_tokens: int = 512
    max_document_tokens: int = 512
    bf16: bool = True
    gradient_checkpointing: bool = False
    save_steps: int = 200


@dataclass(frozen=True)
class NewEncoder:
    """An encoder made from nothing: a transformers configuration and how it is pooled.

    Parameters
    ----------
    network : dict
        ``model_type`` and any fields of its transformers configuration; the vocabulary follows the
        tokenizer.
    pooling : {"first", "last", "mean"}
    """

    network: dict[str, Any]
    pooling: Pooling = "mean"


@dataclass(frozen=True)
class NewTokenizer:
    """A tokenizer trained on the texts of some files (byte pairs over characters).

    Parameters
    ----------
    vocab_size : int
    alphabet : int
        The most frequent characters that are kept; others become the unknown token.
    files : list of str
        Paths relative to the data folder; every text in them is used.
    """

    vocab_size: int
    files: list[str]
    alphabet: int = 4000


@dataclass(frozen=True)
class Start:
    """Where training begins: a dual encoder that exists, or new networks.

    Parameters
    ----------
    model : str, optional
        Anything that `DualEncoder.from_pretrained` takes; the other fields are left out then.
    query_model, document_model, preset : str, optional
        Two encoders instead, as `DualEncoder.from_pretrained` takes them.
    tokenizer, query, document, width, order, max_tokens
        New networks with random weights.
    bag_of_words : bool
        Whether both networks begin as the same bag of words: with the same vectors for the same tokens,
        and with layers that add nothing to them yet. They begin in one space, where a shared word already
        is a likeness, instead of having to find it.
    """

    model: str | None = None
    query_model: str | None = None
    document_model: str | None = None
    preset: str | None = None
    tokenizer: NewTokenizer | None = None
    query: NewEncoder | None = None
    document: NewEncoder | None = None
    width: int | None = None
    order: Order = "normalize-then-slice"
    max_tokens: int = 512
    bag_of_words: bool = True


@dataclass(frozen=True)
class Recipe:
    """A whole training run: a start and stages that follow one another.

    Parameters
    ----------
    name : str
        Of the resulting model.
    start : Start
    stages : list of Stage
    seed : int
    save_dtype : {"float32", "float16", "bfloat16"}
        Of the weights on disk.
    """

    name: str
    start: Start
    stages: list[Stage]
    seed: int = 0
    save_dtype: Literal["float32", "float16", "bfloat16"] = "float32"


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
    start = recipe.start
    if not recipe.stages:
        raise CareError(f"{file}: stages is empty; name at least one")
    found = {
        "a model": start.model is not None,
        "a query_model and a document_model": bool(start.query_model or start.document_model),
        "new networks": bool(start.tokenizer or start.query or start.document),
    }
    if len(both := [name for name, there in found.items() if there]) > 1:
        raise CareError(f"{file}: start has {' and '.join(both)}; give one of them")
    if bool(start.query_model) != bool(start.document_model):
        raise CareError(f"{file}: start needs both query_model and document_model")
    if not (start.model or start.query_model) and not (start.tokenizer and start.query and start.document):
        raise CareError(
            f"{file}: start needs a model, or query_model and document_model, or a tokenizer, a query and a document encoder"
        )
    names = [stage.name for stage in recipe.stages]
    for name in (recipe.name, *names):
        if not _NAME.fullmatch(name):
            raise CareError(
                f"{file}: name {name!r} becomes a folder; use letters, digits, '-', '_' and '.' behind the first"
            )
    if not 0 <= recipe.seed < 2**32:
        raise CareError(f"{file}: seed is {recipe.seed}; it must be between 0 and {2**32 - 1}")
    if start.tokenizer and not (start.tokenizer.files and start.tokenizer.alphabet > 0):
        raise CareError(f"{file}: the tokenizer needs files and an alphabet above 0")
    if start.tokenizer and start.tokenizer.vocab_size < start.tokenizer.alphabet:
        raise CareError(f"{file}: the tokenizer's vocab_size must not be below its alphabet")
    if len(set(names)) < len(names):
        raise CareError(f"{file}: two stages have the same name")
    for stage in recipe.stages:
        if not stage.data:
            raise CareError(f"{file}: stage {stage.name!r} has no data")
        for name in _ABOVE_0:
            if not 0 < getattr(stage, name) < math.inf:
                raise CareError(f"{file}: stage {stage.name!r}: {name} must be a number above 0")
        for name, most in (("warmup_ratio", 1.0), ("weight_decay", math.inf), ("negatives", math.inf)):
            if not 0 <= getattr(stage, name) <= most:
                raise CareError(f"{file}: stage {stage.name!r}: {name} must be from 0 to {most:g}")
        if not 0 < stage.mask_ratio < 1:
            raise CareError(f"{file}: stage {stage.name!r}: mask_ratio must be between 0 and 1")
        if stage.mini_batch_size is not None and stage.mini_batch_size < 1:
            raise CareError(f"{file}: stage {stage.name!r}: mini_batch_size must be above 0")
        if any(width < 1 for width in stage.widths):
            raise CareError(f"{file}: stage {stage.name!r}: widths must be above 0")
        weights = stage.info_nce_weight, stage.mse_weight
        if not (min(weights) >= 0 and 0 < max(weights) < math.inf):
            raise CareError(
                f"{file}: stage {stage.name!r}: info_nce_weight and mse_weight must not be below 0, nor both 0"
            )
        if stage.mining and (
            stage.mining.depth < 1 or stage.mining.count < 1 or not stage.mining.margin >= 0
        ):
            raise CareError(
                f"{file}: stage {stage.name!r}: mining needs a depth and a count above 0 and a margin not below 0"
            )
        if stage.lora and stage.lora.rank < 1:
            raise CareError(f"{file}: stage {stage.name!r}: the rank of lora must be above 0")
        if stage.method == "alignment" and stage.role == "document" and stage.teacher is None:
            raise CareError(
                f"{file}: stage {stage.name!r}: alignment aims at the document encoder; name a teacher to train it"
            )
        if stage.teacher is not None and stage.method != "alignment":
            raise CareError(f"{file}: stage {stage.name!r}: a teacher is for alignment, not {stage.method}")


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
