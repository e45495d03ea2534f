"""What a training run consists of: the fields of a recipe, each with its meaning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from care_accel.encoding import Role, Task
from care_accel.kernels import Order, Pooling

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
