"""The fused kernel against float64: on a GPU where there is one, else in Triton's interpreter (see tests/conftest.py)."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from care_accel.kernels import ORDERS, POOLINGS, choice, embed, pool, project

fused = pytest.importorskip("care_accel.kernels.fused", reason="Triton is not installed")

ROOT = Path(__file__).parents[2]
DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
# Rounding of the result to its dtype, of values of at most 1: half a unit in the last place, and float32 sums.
TOLERANCES = {torch.float32: 1e-6, torch.float16: 2**-12 + 1e-6, torch.bfloat16: 2**-9 + 1e-6}


def states(*shape, dtype=torch.float32, seed=0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return (values + 0.2).to(dtype).to(DEVICE)


def masks(lengths, tokens, left=False, dtype=torch.int64):
    mask = torch.tensor([[1] * n + [0] * (tokens - n) for n in lengths], dtype=dtype)
    return (mask.flip(1) if left else mask).to(DEVICE)


def expected(hidden, mask, pooling, order, width):
    """One row at a time in float64."""
    rows = []
    for values, kept in zip(hidden.double().cpu().numpy(), mask.cpu().numpy() != 0, strict=True):
        tokens = values[kept]
        row = {"first": tokens[0], "last": tokens[-1], "mean": tokens.mean(axis=0)}[pooling]
        row = row[:width] if order == "slice-then-normalize" else row
        rows.append((row / (np.linalg.norm(row) or 1.0))[:width])
    return np.stack(rows)


def check(hidden, mask, pooling, order, width, dtype=torch.float32, parts=1):
    found = fused.launch(hidden, mask, pooling, order, width, dtype, parts)
    assert found.dtype == dtype
    assert found.shape == (hidden.shape[0], width)
    np.testing.assert_allclose(
        found.double().cpu(), expected(hidden, mask, pooling, order, width), rtol=0, atol=TOLERANCES[dtype]
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(
    ("batch", "tokens", "size", "width"),
    [(5, 123, 123, 77), (1, 1, 1, 1), (1, 9, 768, 768), (3, 1, 33, 32), (2, 1500, 7, 3), (2, 5, 2500, 1030)],
    ids=str,
)
def test_odd_shapes_equal_the_formula_with_padding_on_either_side(batch, tokens, size, width, pooling, order):
    lengths = [max(1, tokens * (i + 1) // (batch + 1)) for i in range(batch)]
    hidden = states(batch, tokens, size)
    check(hidden, masks(lengths, tokens), pooling, order, width)
    check(hidden, masks(lengths, tokens, left=True), pooling, order, width)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("source", [*TOLERANCES, torch.float64], ids=str)
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_every_dtype_in_and_out_rounds_once(source, dtype, pooling):
    hidden = states(2, 11, 130, dtype=source)
    check(hidden, masks([11, 4], 11), pooling, "normalize-then-slice", 100, dtype)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_strides_are_arbitrary(pooling):
    mask = masks([6, 2, 4], 6, left=True)
    for hidden in (
        states(6, 3, 40).transpose(0, 1),
        states(3, 40, 6).transpose(1, 2),
        states(3, 12, 80)[:, ::2, 1::2],
        states(1, 1, 40).expand(3, 6, 40),
    ):
        check(hidden, mask, pooling, "slice-then-normalize", 24)
    check(states(3, 6, 40), masks([6, 2, 4], 12, left=True)[:, ::2], pooling, "slice-then-normalize", 24)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32, torch.uint8], ids=str)
def test_a_mask_has_any_dtype(dtype):
    for pooling in POOLINGS:
        check(states(2, 5, 16), masks([2, 5], 5, dtype=dtype), pooling, "normalize-then-slice", 16)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_mask_with_holes_is_followed(pooling):
    mask = torch.tensor([[0, 1, 0, 1, 1, 0], [1, 0, 0, 0, 0, 1]]).to(DEVICE)
    check(states(2, 6, 16), mask, pooling, "normalize-then-slice", 16)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_all_padding_but_one_token_gives_that_token_and_what_stands_at_padding_does_not_matter(pooling):
    hidden = states(3, 7, 20)
    mask = torch.zeros(3, 7, dtype=torch.int64, device=DEVICE)
    for row, position in enumerate((0, 3, 6)):
        mask[row, position] = 1
    hidden[mask == 0] = float("nan")
    check(hidden, mask, pooling, "normalize-then-slice", 20)


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_a_mean_is_the_same_however_many_programs_share_a_row(parts):
    hidden, mask = states(2, 20, 50, dtype=torch.bfloat16), masks([20, 3], 20, left=True)
    for order in ORDERS:
        check(hidden, mask, "mean", order, 30, parts=parts)


def test_rows_are_split_only_where_they_are_few_and_long():
    assert fused.parts_for(1024, 512, 132) == 1
    assert fused.parts_for(1, 16, 132) == 1
    assert fused.parts_for(32, 512, 132) == 8
    assert fused.parts_for(1, 8192, 132) == 128


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_zeros_nan_infinities_and_rows_without_tokens_come_out_as_of_the_reference(pooling, order):
    hidden, mask = states(6, 4, 12), masks([4, 2, 4, 3, 0, 1], 4)
    hidden[0] = 0.0
    hidden[1, :, 3] = float("nan")
    hidden[2, :, 10] = float("nan")  # behind the width
    hidden[3, :, 2] = float("inf")
    hidden[5] *= 1e-14  # a norm below the smallest that is divided by
    found = fused.launch(hidden, mask, pooling, order, 8, torch.float32, 1)
    plain = project(pool(hidden, mask, pooling), 8, order)
    torch.testing.assert_close(found, plain, atol=1e-6, rtol=1e-5, equal_nan=True)
    assert found[0].tolist() == [0.0] * 8


def test_no_rows_give_no_vectors():
    assert fused.launch(
        states(0, 3, 4), masks([], 3).view(0, 3), "mean", ORDERS[0], 2, torch.float32, 1
    ).shape == (0, 2)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_operator_is_one_that_pytorch_accepts(pooling):
    arguments = (states(2, 3, 8), masks([3, 1], 3), pooling, ORDERS[0], 5, torch.float16)
    torch.library.opcheck(fused.embed, arguments)


def test_torch_compile_passes_through_it_as_one_graph():
    hidden, mask = states(2, 3, 8), masks([3, 1], 3)

    def doubled(hidden, mask):
        return 2 * fused.embed(hidden * 1.5, mask, "mean", "normalize-then-slice", 5, torch.float32)

    found = torch.compile(doubled, fullgraph=True, backend="aot_eager")(hidden, mask)
    torch.testing.assert_close(found, doubled(hidden, mask))


def test_the_choice_is_plain_pytorch_without_a_gpu_for_gradients_and_for_exports(monkeypatch):
    def refuse(*_):
        raise AssertionError("the fused kernel was called")

    monkeypatch.setattr(fused, "embed", refuse)
    hidden, mask = states(2, 3, 8).cpu(), masks([3, 1], 3).cpu()
    found = embed(hidden, mask, "last", "slice-then-normalize", 5, torch.bfloat16)
    assert found.dtype == torch.bfloat16
    embed(hidden.requires_grad_().to(DEVICE), mask.to(DEVICE), "last", ORDERS[0], 5).sum().backward()
    assert hidden.grad.abs().sum() > 0


def test_arguments_that_do_not_fit_are_refused():
    hidden, mask = states(1, 2, 4), masks([2], 2)
    with pytest.raises(ValueError, match="pooling is 'max'"):
        embed(hidden, mask, "max", ORDERS[0], 2)
    with pytest.raises(ValueError, match="order is 'none'"):
        embed(hidden, mask, "mean", "none", 2)
    with pytest.raises(ValueError, match=r"width is 5; .* the hidden size, 4"):
        embed(hidden, mask, "mean", ORDERS[0], 5)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_on_a_gpu_the_choice_is_the_fused_kernel_and_a_compiled_graph_holds_it():
    hidden, mask = states(4, 200, 768, dtype=torch.bfloat16), masks([200, 3, 77, 1], 200)
    compiled = torch.compile(choice.embed, fullgraph=True)
    for pooling in POOLINGS:
        plain = project(pool(hidden, mask, pooling), 512, ORDERS[0])
        for function in (choice.embed, compiled):
            torch.testing.assert_close(
                function(hidden, mask, pooling, ORDERS[0], 512), plain, atol=1e-5, rtol=0
            )


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_offsets_go_beyond_32_bits():
    hidden = torch.zeros(3, 2**15, 2**15, dtype=torch.float16, device=DEVICE)  # 6 GB
    hidden[2, -1] = states(2**15, dtype=torch.float16)
    mask = torch.ones(3, 2**15, dtype=torch.int64, device=DEVICE)
    found = fused.embed(hidden, mask, "last", ORDERS[0], 2**15, torch.float32)
    torch.testing.assert_close(found[2], torch.nn.functional.normalize(hidden[2, -1].float(), dim=0))


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from care_accel.kernels.fused import _kernel

for pooling in ("first", "mean", "sum"):
    fixed = {"POOLING": pooling, "NORMALIZE": True, "READ": 768, "WIDTH": 512, "BLOCK_VALUES": 1024}
    fixed |= {"BLOCK_TOKENS": 8, "BLOCK_MASK": 64, "hidden_value": 1, "mask_token": 1}
    pointers = {"hidden": "*bf16", "mask": "*i64", "out": "*fp32"}
    names = _kernel.arg_names
    signature = {n: "constexpr" if n in fixed else pointers.get(n, "i32") for n in names}
    even = {(names.index(n),): [["tt.divisibility", 16]] for n in (*pointers, "hidden_row", "hidden_token")}
    constants = {(names.index(n),): value for n, value in fixed.items()}
    source = ASTSource(fn=_kernel, signature=signature, constexprs=constants, attrs=even)
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}).asm["ptx"]
    assert "ld.global.v4.b32" in ptx, "states are not read 16 bytes at a time"
print("compiled")
"""


@pytest.mark.skipif(DEVICE == "cuda", reason="with a GPU the tests above compile it")
def test_the_kernel_compiles_for_a_gpu_and_reads_16_bytes_at_a_time(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "compiled\n", done.stderr[-2000:]
