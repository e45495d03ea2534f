"""Documents on a GPU, in bfloat16: packed texts against padded batches, in tokens a second.

The paper's document networks at true size (qwen3, 4B; 8B in the full size) with random weights, over documents of 300 tokens
and of 30 to 512. All engines get the same token ids and return vectors to the host, so tokenising is in none of them; an encoder does
it ahead, in a thread. "Float8 products" (a scale for each token and each output) are an experiment, not a dtype of the package. Documents are sorted by length by every engine. The limit is the operations of the whole network, attention included
(half of it, as it is causal), at the rate of a large matrix product in the same run: the share of it is the MFU.

Before anything is timed, vectors are compared with those of each document alone in float32 (the worst cosine, and
the largest change of a value by the other documents of its pack). In the smoke size without a GPU a small network runs on the CPU.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the peer torch is not installed")
from bench.gpu.test_gpu_encoder import NETWORKS  # noqa: E402
from care_accel import DualEncoder  # noqa: E402
from care_accel.encoding import Encoder, EncoderSpec  # noqa: E402
from care_accel.encoding.runtimes.pytorch import PyTorchRuntime  # noqa: E402

ON_GPU = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", "bfloat16") if ON_GPU else ("cpu", "float32")
DOCUMENTS = {"smoke": 2, "default": 128, "full": 128}
# Log-uniform: of the lengths of medical answers, most are short.
MIXES = {"300 tokens": (300, 300), "30 to 512 tokens": (30, 512)}
MOST, WIDTH, TOKEN_BUDGET = 512, 256, 16_384
SAME = 8  # documents that are compared in float32


@pytest.fixture(autouse=True)
def _where_it_can_run(bench_size):
    if not ON_GPU and bench_size != "smoke":
        pytest.skip("needs a GPU")


@functools.lru_cache(maxsize=1)
def network_of(name: str) -> Any:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model_type, values = NETWORKS[name]
    torch.compiler.reset()  # programs of another network count towards the compiler's limit of programs
    if ON_GPU:
        torch.cuda.empty_cache()
    torch.manual_seed(0)
    with torch.device(DEVICE):
        config = transformers.CONFIG_MAPPING[model_type](**values)
        return transformers.AutoModel.from_config(config, dtype=getattr(torch, DTYPE)).eval()


def spec_of() -> EncoderSpec:
    return EncoderSpec(
        pooling="last", order="slice-then-normalize", width=WIDTH, dtype=DTYPE, device=DEVICE, max_tokens=MOST
    )


def documents_of(mix: str, count: int) -> list[list[int]]:
    random = np.random.default_rng(0)
    low, high = np.log(MIXES[mix])
    lengths = np.exp(random.uniform(low, high, count)).round().astype(int)
    return [random.integers(5, 900, length).tolist() for length in lengths]


class _Padding(PyTorchRuntime):
    """Batches padded by length: what there was before packs."""

    def packs(self, rows):
        return False


def ours(name, kind=PyTorchRuntime, compiled=False, change=lambda network: network):
    # Graphs are of small batches; capturing them would take memory and time.
    runtime = kind(change(network_of(name)), spec_of(), graphs=False, compiled=compiled)
    encoder = Encoder(spec_of(), _tokenizer(), runtime)
    return lambda rows: encoder.encode_tokens(rows, batch_size=len(rows), token_budget=TOKEN_BUDGET)


@functools.cache
def _tokenizer():
    return DualEncoder.from_pretrained("care-mini").encoder("document").tokenizer


def transformers_padded(name):
    network = network_of(name)

    def encode(rows):
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        vectors = np.empty((len(rows), WIDTH), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), 32):
                batch = order[start : start + 32]
                ids, mask = (part.to(DEVICE) for part in padded([rows[i] for i in batch]))
                hidden = network(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
                last = hidden[torch.arange(len(batch), device=DEVICE), mask.sum(dim=1) - 1, :WIDTH]
                vectors[batch] = torch.nn.functional.normalize(last.float(), dim=-1).cpu().numpy()
        return vectors

    return encode


def padded(rows):
    ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask


def sentence_transformers(name):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    network = network_of(name)

    class Ids(torch.nn.Module):
        """The network, with texts that are token ids already."""

        max_seq_length = MOST

        def tokenize(self, texts, **_):
            ids, mask = padded([list(map(int, text.split())) for text in texts])
            return {"input_ids": ids, "attention_mask": mask}

        def preprocess(self, inputs, **_):
            return self.tokenize(inputs)

        def forward(self, features, **_):
            hidden = network(
                input_ids=features["input_ids"], attention_mask=features["attention_mask"], use_cache=False
            ).last_hidden_state
            return features | {"token_embeddings": hidden}

    pooling = Pooling(network.config.hidden_size, pooling_mode="lasttoken")
    model = library.SentenceTransformer(modules=[Ids(), pooling, Normalize()], device=DEVICE)

    def encode(rows):
        texts = [" ".join(map(str, row)) for row in rows]
        found = model.encode(texts, batch_size=32, convert_to_numpy=True, show_progress_bar=False)
        found = np.asarray(found, dtype=np.float32)[:, :WIDTH]
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    return encode


class Float8Linear(torch.nn.Module):
    """A linear layer whose products are of float8 (e4m3), with a scale for each token and for each output."""

    def __init__(self, linear):
        super().__init__()
        self.bias = linear.bias
        self.codes, self.scales = _float8(linear.weight.detach())

    def forward(self, states):
        codes, scales = _float8(states.reshape(-1, states.shape[-1]))
        out = torch._scaled_mm(
            codes, self.codes.t(), scale_a=scales, scale_b=self.scales.t(), out_dtype=torch.bfloat16
        ).to(states.dtype)
        return (out if self.bias is None else out + self.bias).view(*states.shape[:-1], -1)


def _float8(values):
    """Return the codes of rows, and what they are multiplied by, float32 ``[rows, 1]``."""
    scales = (
        values.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / 448
    )  # the largest value of e4m3
    return (values / scales).to(torch.float8_e4m3fn), scales


def with_float8_products(module):
    """Return a copy with float8 products in place of linear layers; it shares everything else."""
    copied = copy.copy(module)
    copied._modules = {
        name: Float8Linear(child)
        if isinstance(child, torch.nn.Linear)
        else child and with_float8_products(child)
        for name, child in module._modules.items()
    }
    return copied


def float8(name):
    return ours(name, compiled=True, change=with_float8_products)


OURS = "care_accel, packed, compiled layers"
FLOAT8 = "care_accel, packed, compiled layers, float8 products"
ENGINES = {
    OURS: lambda name: ours(name, compiled=True),
    "care_accel, packed": ours,
    FLOAT8: float8,
    "care_accel, padded": lambda name: ours(name, _Padding),
    "transformers, padded": transformers_padded,
    "sentence-transformers, padded": sentence_transformers,
}


OF_THE_LARGEST = (OURS, "transformers, padded")  # with the others a run would take minutes more


def pytest_generate_tests(metafunc):
    size = metafunc.config.getoption("--bench-size")
    names = {"smoke": ["qwen3, small"], "default": ["qwen3, 4B"], "full": ["qwen3, 4B", "qwen3, 8B"]}[size]
    metafunc.parametrize("network", names)
    metafunc.parametrize("mix", list(MIXES)[1:] if size == "smoke" else MIXES)
    metafunc.parametrize("engine", ENGINES)


@functools.lru_cache(maxsize=4)
def in_float32(name, mix, count):
    """Return the vectors of some documents, each alone, in float32."""
    rows = documents_of(mix, count)[:SAME]
    network = network_of(name).float()
    try:
        with torch.inference_mode():
            found = []
            for row in rows:
                ids = torch.tensor([row], device=DEVICE)
                last = network(input_ids=ids, use_cache=False).last_hidden_state[:, -1, :WIDTH]
                found.append(torch.nn.functional.normalize(last, dim=-1).cpu().numpy())
        return np.concatenate(found)
    finally:
        network.to(getattr(torch, DTYPE))  # the same values again: each of them was one of bfloat16


def operations(name, rows):
    """Return the operations of a whole network: products of weights, and of attention."""
    network = network_of(name)
    weights = sum(one.numel() for one in network.layers.parameters())
    config = network.config
    of_attention = 2 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
    return sum(2 * weights * len(row) + of_attention * len(row) ** 2 for row in rows)


def compared(encode, name, mix, rows, least):
    """Return how near the vectors are to those of each document alone in float32."""
    together, exact = encode(rows)[:SAME], in_float32(name, mix, len(rows))
    cosine = float((together * exact).sum(axis=1).min())
    assert cosine > least, f"a cosine with float32 is {cosine}: the vectors are not those of the network"
    moved = float(np.abs(together - np.concatenate([encode([row]) for row in rows[:SAME]])).max())
    return f"worst cosine with float32 {cosine:.5f}, moved by its batch by at most {moved:.1e}"


def test_documents_on_a_gpu(measure, cached, bench_size, network, mix, engine):
    if network == "qwen3, 8B" and engine not in OF_THE_LARGEST:
        pytest.skip("measured with the 4B network")
    count, case = DOCUMENTS[bench_size], (network, mix)
    rows = documents_of(mix, count)
    encode = cached(case, engine, lambda: ENGINES[engine](network))
    least = 0.9 if engine == FLOAT8 else 0.99 if ON_GPU else 0.99999
    quality = cached(case, f"{engine}, compared", lambda: compared(encode, network, mix, rows, least))
    tokens = sum(map(len, rows))
    measure(
        encode,
        [(rows,)],
        group=f"GPU: {count} documents of {mix}, {network} in {DTYPE}",
        name=engine,
        ours=engine == OURS,
        parameters={"network": network, "mix": mix, "documents": count, "tokens": tokens},
        limit={"GPU bfloat16 rate" if ON_GPU else "float32 rate": operations(network, rows)},
        seconds=0.15,
        fewest=2,
        exact=False,
        note=quality,
    )
    if not measure.disabled:
        measure.note(rate=tokens / measure.benchmark.stats.stats.median)
