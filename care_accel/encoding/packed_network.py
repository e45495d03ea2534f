"""A network over packed texts: token ids of several texts one after another, without padding."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from care_accel.encoding.last_layer import PackedTokens, with_last_layer_of_pooled_tokens
from care_accel.encoding.packed_attention import Segments, missing_on_a_gpu, with_packed_attention
from care_accel.encoding.spec import EncoderSpec
from care_accel.kernels import embed, project

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from care_accel.encoding.dense_layers import DenseLayers

# By transformers' ``model_type``: networks that take positions, and pass unknown arguments on to their attention. In the
# second group positions begin after the padding id, which is not counted where a text has it.
_FROM_ZERO = ("bert", "gte", "llama", "qwen2", "qwen3")
_AFTER_PADDING = ("roberta", "xlm-roberta")


class PackedNetwork(nn.Module):
    """Packed token ids to embeddings, as `PooledNetwork` does for padded ones.

    Embeddings equal those of the padded network up to rounding; no token is computed that is not one of a text.

    Parameters
    ----------
    network : transformers.PreTrainedModel
        In evaluation mode, supported (see `unsupported`). Its weights are shared, not copied; it is not modified.
    spec : EncoderSpec
    dense : DenseLayers, optional
        The dense layers of the spec (`Checkpoint.load_dense`); needed if it has any.
    """

    def __init__(self, network: PreTrainedModel, spec: EncoderSpec, dense: DenseLayers | None = None) -> None:
        super().__init__()
        self.dense = dense
        self._pooling, self._order, self._width = spec.pooling, spec.order, spec.width
        packed = with_packed_attention(network)
        # A pooled token that does not see the whole text needs the last layer's masks.
        sees_all = spec.pooling == "last" or network.config.model_type == "gte"
        trimmed = with_last_layer_of_pooled_tokens(packed, spec.pooling) if sees_all else None
        self.trimmed = trimmed is not None
        parameters = inspect.signature(network.forward).parameters
        self._options: dict[str, Any] = {"use_cache": False} if "use_cache" in parameters else {}
        self.network = packed if trimmed is None else trimmed

    @staticmethod
    def unsupported(network: PreTrainedModel, device: str) -> str | None:
        """Return why a network cannot run packed on a device, None if it can."""
        config = network.config
        if config.model_type not in _FROM_ZERO + _AFTER_PADDING:
            return f"packs {', '.join(sorted(_FROM_ZERO + _AFTER_PADDING))} networks, not {config.model_type}"
        if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
            return "packs full attention, not sliding windows"
        rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        if "dynamic" in rope or rope == "longrope":
            return f"rope_type {rope!r} depends on the length of a batch"
        if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
            return "packs encoders, and decoders without cross attention"
        if (getattr(config, "position_embedding_type", None) or "absolute") != "absolute":
            return f"packs absolute positions, not {config.position_embedding_type!r}"
        if torch.device(device).type not in ("cpu", "cuda"):
            return f"packs on cpu and cuda, not on {device}"
        if torch.device(device).type == "cpu":
            return None
        if missing := missing_on_a_gpu():
            return missing
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        if size % 8 or size > 256:
            return f"FlashAttention takes heads of 8, 16, ... 256 values, not {size}"
        if network.dtype not in (torch.float16, torch.bfloat16):
            return f"FlashAttention takes float16 and bfloat16, not {network.dtype}"
        return None

    def pack(self, rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], int, int]:
        """Lay texts one after another, for `split` on the device of the network: one copy takes them there.

        Parameters
        ----------
        rows : sequence of sequence of int
            Token ids of each text, at least one. An ``unpooled`` attribute is the number of leading tokens that are not
            pooled.

        Returns
        -------
        values : numpy.ndarray
            int64: ids and positions of all tokens, starts of the texts with the end of the last, first pooled tokens.
        tokens : int
            Number of tokens.
        longest : int
            Of `Segments`: a power of two, so that compiled code sees few of them.
        """
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        ids = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(starts[-1]))
        unpooled = np.array([getattr(row, "unpooled", 0) for row in rows], dtype=np.int64)
        values = np.concatenate([ids, self._positions(ids, starts), starts, starts[:-1] + unpooled])
        return values, ids.size, max(16, 1 << int(lengths.max() - 1).bit_length())

    def example(self, device: str) -> tuple[torch.Tensor, int, int]:
        """Return arguments of `forward` whose sizes differ from each other and from most networks'."""
        values, tokens, longest = self.pack([[1] * 17, [1] * 30, [1] * 22])
        return torch.from_numpy(values).to(device), tokens, longest

    def _positions(self, ids: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
        config = self.network.config
        lengths = np.diff(starts)
        if config.model_type in _FROM_ZERO:
            return np.arange(ids.size) - np.repeat(starts[:-1], lengths)
        counted = ids != config.pad_token_id
        before = np.concatenate([[0], np.cumsum(counted)])
        return config.pad_token_id + counted * (before[1:] - np.repeat(before[starts[:-1]], lengths))

    def forward(self, values: torch.Tensor, tokens: int, longest: int) -> torch.Tensor:
        """Encode a pack of `pack`, on the network's device, to float32 ``[texts, width]``."""
        ids, positions, rest = values[:tokens], values[tokens : 2 * tokens], values[2 * tokens :]
        texts = rest.shape[0] // 2
        starts, first = rest[: texts + 1], rest[texts + 1 :]
        segments = Segments(starts.to(torch.int32), longest)
        options: dict[str, Any] = self._options | {"segments": segments}
        index = first if self._pooling == "first" else starts[1:] - 1
        if self.trimmed:
            options["pooled"] = PackedTokens(index, *segments)
        hidden = self.network(
            input_ids=ids.unsqueeze(0), position_ids=positions.unsqueeze(0), **options
        ).last_hidden_state
        if self.trimmed:
            pooled = hidden
        elif self._pooling == "mean":
            pooled = _means(hidden[0], starts, first).unsqueeze(1)
        else:
            pooled = hidden[0, index].unsqueeze(1)
        if self.dense is None:
            return embed(pooled, torch.ones_like(index).unsqueeze(1), "first", self._order, self._width)
        return project(self.dense(pooled[:, 0].float()), self._width, self._order)


def _means(states: torch.Tensor, starts: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Return the mean of each text's states from its first pooled token on, float32 ``[texts, hidden]``."""
    # Each text is two segments, of which the second is pooled. Sums have a fixed order, unlike those of index_add.
    lengths = torch.stack([first - starts[:-1], starts[1:] - first], dim=1).flatten()
    return torch.segment_reduce(states.float(), "mean", lengths=lengths, initial=0, unsafe=True)[1::2]
