"""Configuration of a curation: the fields of its YAML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from care_accel.folders import make_folder

LOWEST, HIGHEST = 1, 5


@dataclass(frozen=True)
class Candidates:
    """Candidate pooling: which documents of a query are judged.

    Parameters
    ----------
    retrievers : list of str
        ``bm25``, or the name or folder of a dual encoder.
    depth : int
        Documents taken from each retriever.
    pool : int
        Documents kept per query after fusion.
    constant : float
        k of reciprocal rank fusion, 1 / (k + rank); 60 as in Cormack et al., SIGIR 2009.
    deduplicate : {"exact", "near", "none"}
        Deduplication within a pool. ``exact``: equal apart from character width, case, white space and
        punctuation. ``near``: also near duplicates, by Jaccard similarity of character 3-grams.
    """

    retrievers: list[str] = field(default_factory=lambda: ["bm25", "care-mini"])
    depth: int = 50
    pool: int = 50
    constant: float = 60.0
    deduplicate: Literal["exact", "near", "none"] = "exact"


@dataclass(frozen=True)
class Price:
    """Price per million tokens, in any one currency."""

    input: float = 0.0
    output: float = 0.0


@dataclass(frozen=True)
class JudgeConfig:
    """An LLM judge: an OpenAI-compatible chat endpoint.

    Parameters
    ----------
    name : str
        Identifies its judgements; part of their primary key.
    base_url, model : str
        The endpoint and its model; the URL without ``/chat/completions``.
    key : str or None
        NAME of the environment variable that holds the API key; never the key itself.
    requests_a_minute, tokens_a_minute : float or None
        Rate limits of the endpoint; None for no limit.
    at_once : int
        Maximum number of concurrent requests.
    timeout : float
        Timeout of a request in seconds.
    retries : int
        Retries after transient failures: HTTP 408, 409, 425, 429, 5xx, timeout, connection error.
    temperature : float
    seed : int or None
        Sent with every request and stored with every judgement. Support differs between endpoints.
    max_tokens : int or None
        Maximum length of an answer.
    answer : {"schema", "json", "text"}
        Output format requested: a JSON schema (structured outputs), any JSON object, or the prompt alone, for
        endpoints that support neither.
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
    """How candidates are sent to judges.

    Parameters
    ----------
    prompt : str
        Name of a built-in prompt, or path of a YAML file in the same format.
    remote : bool
        Whether texts may be sent to an endpoint outside this machine and its private network.
    redact : bool
        Redact personal data (PII) before a text is sent; mandatory for remote endpoints.
    """

    prompt: str = "relevance-v1"
    remote: bool = False
    redact: bool = True


@dataclass(frozen=True)
class Vote:
    """How grades become a binary label.

    Parameters
    ----------
    rule : {"unanimous", "majority", "mean"}
        Positive if all grades, more than half of them, or their mean are at or above the cutoff.
    cutoff : float
        On the scale from 1 to 5; an integer, except for rule ``mean``.
    """

    rule: Literal["unanimous", "majority", "mean"] = "unanimous"
    cutoff: float = 4.0


@dataclass(frozen=True)
class Sample:
    """Stratified sample of pairs for expert annotation, of equal size per stratum of the vote."""

    size: int = 200
    seed: int = 0


@dataclass(frozen=True)
class FalseNegatives:
    """How false negatives (unlabelled positives) are added to qrels.

    Parameters
    ----------
    grade : int
        Grade of an added document.
    file : str or None
        The extended qrels; by default ``qrels/<split>.repaired.tsv`` next to the original.
    """

    grade: int = 1
    file: str | None = None


@dataclass(frozen=True)
class TrainData:
    """Training data from texts; see `care_accel.curation.training_data.triplets`.

    Parameters
    ----------
    texts : list of str
        Files of JSON lines: {"query", "pos"} for labelled rows, or {"text"}.
    seeds, neighbours, similarity
        See `care_accel.curation.texts.diversity`. The paper states neither of the last two: both values are ours.
    near_duplicates : float
        Jaccard similarity of character 3-grams from which two texts are near duplicates.
    negatives, depth : int
        Hard negatives per query, and the depth of hybrid retrieval that they are mined from.
    margin : float or None
        Positive-aware filter: a candidate is dropped unjudged unless its score by ``model`` is at least this
        share below the lowest score of the query's known positives. For judges that miss many answers; it drops
        hard negatives too. None judges every candidate. Without known positives nothing is dropped.
    false_negatives : {"drop", "add"}
        Whether a candidate that the judges find relevant is dropped, or added as a positive.
    model : str
        Name or folder of a dual encoder.
    seed : int
        Seed of the order in which queries are considered for selection.
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
    """Contamination check: training files and evaluation folders that must share no text.

    Parameters
    ----------
    train, evaluation : list of str
    near_duplicates : float
        Jaccard similarity of character 3-grams from which two texts are near duplicates.
    contained : int
        Minimum length, in characters without white space and punctuation, of evaluation texts that are searched
        for inside longer training texts; shorter questions occur in many texts by chance. 0 disables the search.
    """

    train: list[str] = field(default_factory=list)
    evaluation: list[str] = field(default_factory=list)
    near_duplicates: float = 0.8
    contained: int = 16


@dataclass(frozen=True)
class Sts:
    """STS sentence pairs from a table of synonyms; see `care_accel.curation.sts.pairs`.

    Parameters
    ----------
    synonyms : str
        Tab-separated table of two columns: a term and its synonym.
    sentences : str
        File of JSON lines {"text"} or {"query"} whose sentences are rewritten.
    size : int
        Number of pairs to generate.
    seed : int
    writer : str or None
        Name of the judge that writes; the first one by default.
    a_term : int
        Maximum number of sentences per term.
    same_from, changed_to : int
        A rewrite that keeps the meaning needs ``same_from`` or more from every judge, one that changes it
        ``changed_to`` or less; others are rejected.
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
    """Configuration of a curation. `load_config` makes paths absolute.

    Parameters
    ----------
    output : str
        Output folder of this curation; only its owner can read the files in it.
    data : str or None
        Folder with ``corpus.jsonl``, ``queries.jsonl`` and, if labelled, ``qrels/<split>.tsv``, or another form of these that
        an evaluation reads.
    split : str or None
        Use only the queries of this qrels split; None for all queries.
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
        """Return the path of a result; create the output folder, readable by its owner only, if it is missing."""
        folder = Path(self.output)
        if not folder.exists():
            make_folder(folder, "output")
            folder.chmod(0o700)
        make_folder(folder, "output")
        return folder / name


def is_prompt_file(name: str) -> bool:
    """Return whether a prompt is given as a file rather than by name."""
    return name.endswith((".yaml", ".yml"))
