"""The gte network on the CPU by this package's own native code: ``csrc/include/care/encoder.hpp``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from care_accel import _native
from care_accel.encoding.spec import EncoderSpec
from care_accel.errors import CareError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

DTYPES = ("float32", "int8")


class NativeRuntime:
    """Runs a gte network without PyTorch, in float32 or with int8 weights and activations.

    A text's vector does not depend on its batch to the last bit, nor on ``threads``. Padding costs nothing:
    only tokens are computed. Threads may call one runtime together; they take turns.

    Parameters
    ----------
    network : transformers.GteModel
        In float32. Its layers are copied as the native code reads them and its word embeddings are used in
        place; nothing else of it is needed any more.
    spec : EncoderSpec
        Its dtype is ``float32`` or ``int8``; texts may have ``max_tokens`` tokens.
    threads : int, optional
        As many as the process may use by default; a small batch uses fewer.
    instruction_set : str, optional
        One of ``_native.instruction_sets()``; the fastest by default.

    Attributes
    ----------
    device : str
        ``"cpu"``.
    threads : int

    Raises
    ------
    CareError
        The network is one that `refusal` names, or has weights that are not finite.
    """

    device = "cpu"

    def __init__(
        self,
        network: PreTrainedModel,
        spec: EncoderSpec,
        *,
        threads: int | None = None,
        instruction_set: str = "",
    ) -> None:
        import torch

        if reason := self.refusal(network.config, spec):
            raise CareError(f"runtime 'native' cannot run this network: {reason}; use runtime='pytorch'")
        self.threads = threads or len(os.sched_getaffinity(0))
        self._spec = spec
        embeddings, config = network.embeddings, network.config
        types = embeddings.token_type_embeddings
        positions = torch.arange(spec.max_tokens, device="cpu")[None]
        with torch.inference_mode():
            cosines, sines = network.rotary_emb(torch.zeros(1), positions)
        self._encoder = _native.GteEncoder(
            _array(embeddings.word_embeddings.weight),
            token_type=None if types is None else _array(types.weight[0]),
            norm=_norm(embeddings.LayerNorm),
            cosines=_array(cosines[0]),
            sines=_array(sines[0]),
            heads=config.num_attention_heads,
            intermediate=config.intermediate_size,
            epsilon=config.layer_norm_eps,
            int8=spec.dtype == "int8",
            instruction_set=instruction_set,
        )
        try:
            for layer in network.layers[: config.num_hidden_layers]:
                self._encoder.add_layer(
                    query=_linear(layer.self_attn.q_proj),
                    key=_linear(layer.self_attn.k_proj),
                    value=_linear(layer.self_attn.v_proj),
                    output=_linear(layer.self_attn.o_proj),
                    attention_norm=_norm(layer.post_attention_layernorm),
                    gate=_linear(layer.mlp.gate_proj),
                    up=_linear(layer.mlp.up_proj),
                    down=_linear(layer.mlp.down_proj),
                    feed_forward_norm=_norm(layer.post_mlp_layernorm),
                )
        except ValueError as wrong:
            raise CareError(f"runtime 'native' cannot take this network's weights: {wrong}") from None

    @staticmethod
    def refusal(config: PreTrainedConfig, spec: EncoderSpec) -> str | None:
        """Return why a network cannot be run by this runtime, or None if it can.

        Parameters
        ----------
        config : transformers.PreTrainedConfig
            The network's.
        spec : EncoderSpec
        """
        if config.model_type != "gte":
            return f"it is a {config.model_type} network, and only gte is known"
        if config.hidden_act != "gelu":
            return f"its activation is {config.hidden_act!r}, and only gelu is known"
        kind = (config.rope_parameters or {}).get("rope_type", "default")
        if "dynamic" in kind or kind == "longrope":
            return f"its rotary positions are {kind!r}, which change with the length of a batch"
        if spec.dtype not in DTYPES:
            return f"dtype is {spec.dtype!r}, and only {' and '.join(DTYPES)} are known"
        if spec.device not in ("auto", "cpu"):
            return f"device is {spec.device!r}, and it runs on the CPU alone"
        return None

    @property
    def nbytes(self) -> int:
        """Bytes of the packed layers, all of which a forward pass reads."""
        return self._encoder.nbytes

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Encode one padded batch, ``[batch, tokens]`` each, to float32 ``[batch, width]``."""
        there = mask.astype(bool)
        return self._encoder.encode(
            np.ascontiguousarray(ids[there], dtype=np.int64),
            there.sum(axis=1, dtype=np.int64),
            pooling=self._spec.pooling,
            normalize_first=self._spec.order == "normalize-then-slice",
            width=self._spec.width,
            threads=self.threads,
        )


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    """Return a float32 view, or a copy if the tensor is of another kind."""
    return tensor.detach().float().cpu().contiguous().numpy()


def _linear(layer: torch.nn.Linear) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    return _array(layer.weight), None if layer.bias is None else _array(layer.bias)


def _norm(layer: torch.nn.LayerNorm) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return _array(layer.weight), _array(layer.bias)
