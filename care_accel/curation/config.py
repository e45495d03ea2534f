"""The configuration of a curation: the fields of its YAML file, each with its meaning."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from care_accel.files import make_folder

LOWEST, HIGHEST = 1, 5


@dataclass(frozen=True)
class Candidates:
    """Which documents of a query are judged.

    Parameters
    ----------
    retrievers : list of str
        ``bm25``, the name or the folder of a dual encoder.
    depth : int
        Documents that are taken of each retriever.
    pool : int
        Documents that stay of a query once the rankings are fused.
    constant : float
        Of reciprocal rank fusion, 1 / (constant + rank); 60 as in Cormack et al., SIGIR 2009.
    deduplicate : {"exact", "near", "none"}
        Whether a document stays whose text is another's of the same pool. Texts are equal for ``exact`` but for
        width, case, spaces and punctuation; for ``near`` they share most of their pieces.
    """

    retrievers: list[str] = field(default_factory=lambda: ["bm25", "care-mini"])
    depth: int = 50
    pool: int = 50
    constant: float = 60.0
    deduplicate: Literal["exact", "near", "none"] = "exact"


@dataclass(frozen=True)
class Price:
    """What a million tokens cost, in any one currency."""

    input: float = 0.0
    output: float = 0.0


@dataclass(frozen=True)
class JudgeConfig:
    """A chat endpoint that judges.

    Parameters
    ----------
    name : str
        What its judgements are called; part of their key.
    base_url, model : str
        Of an OpenAI-compatible endpoint; the address ends where ``/chat/completions`` begins.
    key : str or None
        The NAME of the environment variable with the key; never the key itself.
    requests_a_minute, tokens_a_minute : float or None
        Limits of the endpoint; None for no limit.
    at_once : int
        Requests under way at a time.
    timeout : float
        Seconds for one request.
    retries : int
        Further tries after a failure that may pass: 408, 409, 429, 5xx, a time-out, no connection.
    temperature : float
    seed : int or None
        Sent with every request, and kept with every judgement. Endpoints differ in what they make of it.
    max_tokens : int or None
        Of an answer.
    answer : {"schema", "json", "text"}
        How the form of an answer is asked for: by a JSON schema, as any JSON, or in words alone, for
        endpoints that refuse the others.
    price : Price
    """

    name: str
    base_url: str
    model: str
    key: str | None = None
    requests_a_minute: float | None = None
    tokens_a_minute: float | None = None
    at_once: int = 8
    timeout: float = 60.0
    retries: int = 6
    temperature: float = 0.0
    seed: int | None = 0
    max_tokens: int | None = None
    answer: Literal["schema", "json", "text"] = "schema"
    price: Price = field(default_factory=Price)


@dataclass(frozen=True)
class Judging:
    """How judges are asked.

    Parameters
    ----------
    prompt : str
        A prompt of this package, or a YAML file of the same form.
    remote : bool
        Whether texts may go to an endpoint outside this machine and its private network.
    redact : bool
        Remove personal data before a judge sees a text; only endpoints that are not remote do without.
    """

    prompt: str = "relevance-v1"
    remote: bool = False
    redact: bool = True


@dataclass(frozen=True)
class Vote:
    """When a pair is positive.

    Parameters
    ----------
    rule : {"unanimous", "majority", "mean"}
        All judges, or more than half of them, give the cut-off or more; or the mean of their grades is that high.
    cutoff : float
        On the scale from 1 to 5; a whole number but for ``mean``.
    """

    rule: Literal["unanimous", "majority", "mean"] = "unanimous"
    cutoff: float = 4.0


@dataclass(frozen=True)
class Sample:
    """Pairs that experts judge again, as many of each kind of vote."""

    size: int = 200
    seed: int = 0


@dataclass(frozen=True)
class FalseNegatives:
    """How positives that a set lacks are added.

    Parameters
    ----------
    grade : int
        What an added document gets.
    file : str or None
        The repaired judgements; ``qrels/<split>.repaired.tsv`` beside the old by default.
    """

    grade: int = 1
    file: str | None = None


@dataclass(frozen=True)
class TrainData:
    """Training data out of texts; see `care_accel.curation.training_data.triplets`.

    Parameters
    ----------
    texts : list of str
        JSON lines: {"query", "pos"} of labelled rows, or {"text"}.
    seeds, neighbours, similarity
        See `care_accel.curation.texts.diversity`. The paper states neither of the last two: both values are ours.
    near_duplicates : float
        Share of pieces from which on two texts are near duplicates.
    negatives, depth : int
        Hard negatives of a query, of so many documents of fused retrieval.
    margin : float or None
        How far below its query's known answers a candidate must score by ``model``, relative to the lowest of
        them: above, it is left out unjudged, as it may be an answer. For judges that miss many answers; it leaves
        out hard negatives too. None to judge every candidate. Where no answer is known nothing is left out.
    false_negatives : {"drop", "add"}
        Whether a document that the judges call an answer is left out, or becomes a positive one.
    model : str
        A dual encoder's name or folder.
    seed : int
        Of the order in which queries come to be selected.
    """

    texts: list[str] = field(default_factory=list)
    seeds: int = 5000
    neighbours: int = 5
    similarity: float = 0.9
    near_duplicates: float = 0.8
    negatives: int = 7
    depth: int = 50
    margin: float | None = None
    false_negatives: Literal["drop", "add"] = "drop"
    model: str = "care-mini"
    seed: int = 0


@dataclass(frozen=True)
class LeakCheck:
    """Training files and evaluation folders that must share no text.

    Parameters
    ----------
    train, evaluation : list of str
    near_duplicates : float
        Share of pieces from which on two texts are near duplicates.
    contained : int
        Characters, without spaces and punctuation, from which on an evaluation text is looked for inside longer
        training texts: shorter questions are everyday words, which stand in many texts by chance. 0 for never.
    """

    train: list[str] = field(default_factory=list)
    evaluation: list[str] = field(default_factory=list)
    near_duplicates: float = 0.8
    contained: int = 16


@dataclass(frozen=True)
class Sts:
    """Sentence pairs out of a table of synonyms; see `care_accel.curation.sts.pairs`.

    Parameters
    ----------
    synonyms : str
        A table with two columns between tabs: a term and its synonym.
    sentences : str
        JSON lines {"text"} or {"query"} whose sentences are rewritten.
    size : int
        Pairs that are made.
    seed : int
    writer : str or None
        The judge that writes; the first one by default.
    a_term, same_from, changed_to : int
        Sentences of a term at most. Every judge gives a rewrite that keeps the meaning the first grade or more, and
        one that changes it the second or less; others are thrown away.
    """

    synonyms: str
    sentences: str
    size: int = 1000
    seed: int = 0
    writer: str | None = None
    a_term: int = 20
    same_from: int = 4
    changed_to: int = 3


@dataclass(frozen=True)
class Config:
    """A curation. Paths are absolute once it is loaded.

    Parameters
    ----------
    output : str
        A folder of its own; only its owner can read what is written there.
    data : str or None
        A folder with ``corpus.jsonl``, ``queries.jsonl`` and, if it has labels, ``qrels/<split>.tsv``.
    split : str or None
        Take the queries of these labels only; every query without.
    """

    output: str
    data: str | None = None
    split: str | None = None
    candidates: Candidates = field(default_factory=Candidates)
    judges: list[JudgeConfig] = field(default_factory=list)
    judging: Judging = field(default_factory=Judging)
    vote: Vote = field(default_factory=Vote)
    sample: Sample = field(default_factory=Sample)
    false_negatives: FalseNegatives = field(
        default_factory=FalseNegatives, metadata={"name": "false-negatives"}
    )
    train_data: TrainData | None = field(default=None, metadata={"name": "train-data"})
    leak_check: LeakCheck | None = field(default=None, metadata={"name": "leak-check"})
    sts: Sts | None = None

    def output_file(self, name: str) -> Path:
        """Return the place of a result; the folder is made if it is not there, for its owner alone."""
        folder = Path(self.output)
        if not folder.exists():
            make_folder(folder, "output")
            folder.chmod(0o700)
        make_folder(folder, "output")
        return folder / name


def is_prompt_file(name: str) -> bool:
    """Tell the path of a prompt from the name of one."""
    return name.endswith((".yaml", ".yml"))
