"""care-mini for several suites: real queries and documents, cached vectors, and sentence-transformers as the peer."""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.inputs import texts
from care_accel import DualEncoder
from care_accel.encoding.runtimes.native import NativeRuntime
from care_accel.eval.data.reading import Ranking
from care_accel.eval.folder import DataSet


@functools.cache
def model(**options: Any) -> DualEncoder:
    """Return care-mini, loaded once for each set of options."""
    return DualEncoder.from_pretrained("care-mini", **options)


@functools.cache
def twin(**options: Any) -> DualEncoder:
    """Return its symmetric twin: the document encoder also encodes queries."""
    return model(**options).twin()


@functools.cache
def ranking(name: str | None = None) -> tuple[str, Ranking]:
    """Return a retrieval set's name and its rows: of cmedir by default, or of the demo without a data folder."""
    folder = texts.data_folder() / "retrieval"
    names = [name] if name else ["cmedir", "care-demo"]
    data = DataSet("retrieval", next(folder / one for one in names if (folder / one).is_dir()))
    rows = data.read(data.splits[0])
    assert isinstance(rows, Ranking)
    return data.name, rows


def documents_of(rows: Ranking, most: int | None = None) -> tuple[str, ...]:
    """Return the text to encode for each document: title and text, joined as in mteb."""
    some = itertools.islice(rows.documents.values(), most)
    return tuple(f"{title} {text}".strip() if title else text for title, text in some)


@functools.cache
def document_vectors(documents: tuple[str, ...]) -> NDArray[np.float32]:
    """Return the vectors of documents, encoded once for all suites of a run."""
    return model().encode_document(documents, batch_size=256)


def queries() -> list[str]:
    """Return real queries, each once."""
    return list(dict.fromkeys(ranking()[1].queries.values()))


def batches(count: int) -> Iterator[tuple[Any]]:
    """Yield queries cyclically, as arguments of a search: a str if ``count`` is 1, else lists."""
    turns = itertools.cycle(queries())
    while True:
        some = list(itertools.islice(turns, count))
        yield (some[0] if count == 1 else some,)


def network_bytes(encoder: DualEncoder, role: str = "query") -> int:
    """Return the bytes of the loaded weights of one role."""
    runtime = encoder.encoder(role).runtime
    if isinstance(runtime, NativeRuntime):
        # The layers are packed; of the rest, word embeddings are nearly all, and they stay in float32.
        config = encoder.source(role).checkpoint.config
        return runtime.nbytes + 4 * config.vocab_size * config.hidden_size
    return sum(p.numel() * p.element_size() for p in runtime.network.parameters())


class SentenceTransformers:
    """The same weights as a user of sentence-transformers loads them; nothing else is changed.

    Parameters
    ----------
    role : {"query", "document"}
        Whose encoder.
    of : DualEncoder, optional
        Whose weights; care-mini's by default.
    asked_as : {"query", "document"}
        Whose prompt: by default it encodes queries, as the twin does.

    Attributes
    ----------
    model : sentence_transformers.SentenceTransformer
    tokenize : float
        Microseconds that its last call spent before the network.
    """

    def __init__(self, role: str = "query", of: DualEncoder | None = None, asked_as: str = "query") -> None:
        library = pytest.importorskip(
            "sentence_transformers", reason="the peer is not installed (extra train)"
        )
        from sentence_transformers.base import modules as base
        from sentence_transformers.sentence_transformer import modules

        of = of or model()
        source = of.source(role)
        spec, checkpoint = source.spec, source.checkpoint
        with tempfile.TemporaryDirectory() as place:  # the library reads no int8 weights
            checkpoint.save_float32(Path(place))
            transformer = base.Transformer(
                place, max_seq_length=spec.max_tokens, model_kwargs={"dtype": spec.dtype}
            )
        pooling = modules.Pooling(checkpoint.hidden_size, pooling_mode=spec.pooling)
        outer = self

        class Timed(library.SentenceTransformer):
            def preprocess(self, *args: Any, **options: Any) -> Any:
                begun = perf_counter()
                found = super().preprocess(*args, **options)
                outer.tokenize += 1e6 * (perf_counter() - begun)
                return found

        self.tokenize = 0.0
        self.prompt = of.spec(asked_as).format("", "retrieval")
        self.model = Timed(
            modules=[transformer, pooling, base.Normalize()],
            device="cpu",
            truncate_dim=spec.width,
            similarity_fn_name="dot",
            prompts={"query": self.prompt},  # mteb asks for it by this name
        )

    def __call__(self, some: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts as one batch."""
        self.tokenize = 0.0
        return self.model.encode(
            list(some), batch_size=len(some), prompt=self.prompt, show_progress_bar=False
        )
