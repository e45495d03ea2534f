"""One Triton kernel for pooling, slicing, normalising and casting; `choice.embed` calls it on a GPU.

With m the mask, h the hidden states of a row, c = #{t : m_t != 0}, and n = hidden for ``normalize-then-slice``,
n = width for ``slice-then-normalize``::

    first:  p_j = h_tj,  t the smallest with m_t != 0 (0 if there is none)
    last:   p_j = h_tj,  t the largest  with m_t != 0 (tokens - 1 if there is none)
    mean:   p_j = sum over t with m_t != 0 of h_tj / c (NaN if there is none)

    out_i = p_i / max(sqrt(sum over j < n of p_j^2), 1e-12)         for i < width

Sums are float32 whatever the dtypes of ``hidden`` and ``out``. Compared with PyTorch it needs one launch instead of about
ten and, with ``mean``, no intermediate copies of all hidden states. Each hidden state that pooling needs is read once and
stays in registers. Values at padding are not read, nor values beyond ``width`` where the norm does not need them. The
mask is read in full.

One program handles one row, with all values of a token in one block (the next power of two, masked). If ``mean`` has too
few rows to fill the GPU, the tokens of a row are split over several programs, and a second launch of the same kernel adds
their partial sums in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

# Minimum tokens per program when a row is split, and target programs per streaming multiprocessor: enough loads in
# flight to saturate memory bandwidth.
_MIN_TOKENS_PER_PART = 64
_PROGRAMS_PER_SM = 4


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    hidden, mask, out,
    tokens, tokens_per_part,
    hidden_row, hidden_token, hidden_value,
    mask_row, mask_token,
    out_row, out_part,
    POOLING: tl.constexpr,  # "first", "last", "mean"; "sum" adds the partial sums of a mean and reads no mask
    NORMALIZE: tl.constexpr,  # False for a partial sum
    READ: tl.constexpr, WIDTH: tl.constexpr,  # values read per token, and values written
    BLOCK_VALUES: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_MASK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    value = tl.arange(0, BLOCK_VALUES).to(tl.int64)
    hidden += row * hidden_row + value * hidden_value
    mask += row * mask_row

    first, last, count = tokens, -1, 0
    if POOLING == "sum":
        first, last = 0, tokens - 1
    else:
        for start in range(0, tokens, BLOCK_MASK):
            at = start + tl.arange(0, BLOCK_MASK)
            is_token = tl.load(mask + at.to(tl.int64) * mask_token, mask=at < tokens, other=0) != 0
            first = tl.minimum(first, tl.min(tl.where(is_token, at, tokens), axis=0))
            last = tl.maximum(last, tl.max(tl.where(is_token, at, -1), axis=0))
            count += tl.sum(is_token.to(tl.int32), axis=0)

    if POOLING == "first" or POOLING == "last":
        if POOLING == "first":
            position = tl.where(count == 0, 0, first).to(tl.int64)
        else:
            position = tl.where(count == 0, tokens - 1, last).to(tl.int64)
        pooled = tl.load(hidden + position * hidden_token, mask=value < READ, other=0.0).to(tl.float32)
    else:
        # The loop range bounds the reads; the mask only zeroes padding inside it. So loads of hidden states do not
        # wait for loads of the mask.
        first = tl.maximum(first, part * tokens_per_part)
        end = tl.minimum(last + 1, (part + 1) * tokens_per_part)
        pooled = tl.zeros([BLOCK_VALUES], tl.float32)
        for start in range(first, end, BLOCK_TOKENS):
            at = start + tl.arange(0, BLOCK_TOKENS)
            offset = at.to(tl.int64)
            states = tl.load(
                hidden[None, :] + offset[:, None] * hidden_token,
                mask=(at < end)[:, None] & (value < READ)[None, :],
                other=0.0,
            ).to(tl.float32)
            if POOLING == "mean":
                is_token = tl.load(mask + offset * mask_token, mask=at < end, other=0) != 0
                states = tl.where(is_token[:, None], states, 0.0)
            pooled += tl.sum(states, axis=0)
        if POOLING == "mean":
            pooled = pooled / count

    if NORMALIZE:
        norm = tl.sqrt(tl.sum(tl.where(value < READ, pooled * pooled, 0.0), axis=0))
        # tl.maximum would drop a NaN.
        pooled = pooled / tl.where(norm < 1e-12, 1e-12, norm)
    out += row * out_row + part.to(tl.int64) * out_part + value
    tl.store(out, pooled.to(out.dtype.element_ty), mask=value < WIDTH)


def launch(
    hidden: torch.Tensor,
    mask: torch.Tensor,
    pooling: str,
    order: str,
    width: int,
    dtype: torch.dtype,
    parts: int,
) -> torch.Tensor:
    """Launch the kernel; ``mean`` with more than one part per row launches it twice.

    Parameters as in `choice.embed`; any strides. Returns ``[batch, width]`` of ``dtype``.
    """
    batch, tokens, size = hidden.shape
    read = size if order == "normalize-then-slice" else width
    out = torch.empty((batch, width), dtype=dtype, device=hidden.device)
    if batch == 0:
        return out
    if mask.dtype == torch.bool:
        mask = mask.view(torch.uint8)
    with torch.cuda.device_of(hidden):
        if parts == 1 or pooling != "mean":
            _run(hidden, mask, out.unsqueeze(1), pooling, read, tokens)
        else:
            sums = torch.empty((batch, parts, read), dtype=torch.float32, device=hidden.device)
            _run(hidden, mask, sums, pooling, read, -(-tokens // parts), normalize=False)
            _run(sums, mask, out.unsqueeze(1), "sum", read, parts)
    return out


def _run(
    hidden: torch.Tensor,
    mask: torch.Tensor,
    out: torch.Tensor,
    pooling: str,
    read: int,
    tokens_per_part: int,
    normalize: bool = True,
) -> None:
    batch, parts, width = out.shape
    tokens = hidden.shape[1]
    block = triton.next_power_of_2(read)
    # Each thread holds 16 bytes (float16) of a token, so sums over tokens stay within a thread. 8 tokens are in flight,
    # fewer where they would not fit in registers.
    warps = min(max(block // 256, 1), 16)
    _kernel[(batch, parts)](
        hidden, mask, out,
        tokens, tokens_per_part,
        *hidden.stride(), *mask.stride(), out.stride(0), out.stride(1),
        POOLING=pooling, NORMALIZE=normalize, READ=read, WIDTH=width,
        BLOCK_VALUES=block,
        BLOCK_TOKENS=min(max(64 * 32 * warps // block, 1), 8),
        BLOCK_MASK=min(triton.next_power_of_2(tokens), 1024),
        num_warps=warps,
    )  # fmt: skip


def parts_for(batch: int, tokens: int, multiprocessors: int) -> int:
    """Return the number of programs over which ``mean`` splits the tokens of a row."""
    parts = _PROGRAMS_PER_SM * multiprocessors // max(batch, 1)
    return max(1, min(parts, tokens // _MIN_TOKENS_PER_PART))


@torch.library.custom_op("care_accel::embed", mutates_args=())
def embed(
    hidden: torch.Tensor, mask: torch.Tensor, pooling: str, order: str, width: int, dtype: torch.dtype
) -> torch.Tensor:
    """See `choice.embed`, which checks the arguments. Has no gradient."""
    parts = 1
    if pooling == "mean" and hidden.is_cuda:
        count = torch.cuda.get_device_properties(hidden.device).multi_processor_count
        parts = parts_for(hidden.shape[0], hidden.shape[1], count)
    return launch(hidden, mask, pooling, order, width, dtype, parts)


@embed.register_fake
def _(
    hidden: torch.Tensor, mask: torch.Tensor, pooling: str, order: str, width: int, dtype: torch.dtype
) -> torch.Tensor:
    return hidden.new_empty((hidden.shape[0], width), dtype=dtype)
