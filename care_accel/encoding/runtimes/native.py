"""The gte network on the CPU in this package's native code: ``csrc/include/care/encoder.hpp``."""

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

    An embedding is bit-identical whatever the batch and the number of threads. Padding is not computed. Thread-safe;
    concurrent calls are serialised.

    Parameters
    ----------
    network : transformers.GteModel
        In float32. Its layers are copied into the native layout and its word embeddings are used in place; the rest
        is not needed afterwards.
    spec : EncoderSpec
        Its dtype is ``float32`` or ``int8``; ``max_tokens`` limits the length of a text.
    threads : int, optional
        By default as many as the process may use; a small batch uses fewer.
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
        The network is not supported (see `unsupported_reason`), or has weights that are not finite.
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

        if reason := self.unsupported_reason(network.config, spec):
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
            raise CareError(f"runtime 'native' cannot use this network's weights: {wrong}") from None

    @staticmethod
    def unsupported_reason(config: PreTrainedConfig, spec: EncoderSpec) -> str | None:
        """Return why this runtime does not support a network, or None if it does.

        Parameters
        ----------
        config : transformers.PreTrainedConfig
            Configuration of the network.
        spec : EncoderSpec
        """
        if config.model_type != "gte":
            return f"supports gte networks, not {config.model_type}"
        if config.hidden_act != "gelu":
            return f"supports the activation gelu, not {config.hidden_act!r}"
        kind = (config.rope_parameters or {}).get("rope_type", "default")
        if "dynamic" in kind or kind == "longrope":
            return f"does not support rope_type {kind!r}, which depends on the length of a batch"
        if spec.dtype not in DTYPES:
            return f"supports dtype {' and '.join(DTYPES)}, not {spec.dtype!r}"
        if spec.device not in ("auto", "cpu"):
            return f"runs on the CPU only, not on {spec.device!r}"
        return None

    @property
    def nbytes(self) -> int:
        """Size in bytes of the packed layers, all of which a forward pass reads."""
        return self._encoder.nbytes

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Encode one padded batch, ``[batch, tokens]`` each, to float32 ``[batch, width]``."""
        is_token = mask.astype(bool)
        return self._encoder.encode(
            np.ascontiguousarray(ids[is_token], dtype=np.int64),
            is_token.sum(axis=1, dtype=np.int64),
            pooling=self._spec.pooling,
            normalize_first=self._spec.order == "normalize-then-slice",
            width=self._spec.width,
            threads=self.threads,
        )


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    """Return a float32 view, or a copy if dtype or layout differ."""
    return tensor.detach().float().cpu().contiguous().numpy()


def _linear(layer: torch.nn.Linear) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    return _array(layer.weight), None if layer.bias is None else _array(layer.bias)


def _norm(layer: torch.nn.LayerNorm) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return _array(layer.weight), _array(layer.bias)
