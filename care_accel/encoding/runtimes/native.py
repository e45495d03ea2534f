"""Networks on the CPU in this package's native code: ``csrc/include/care/encoder.hpp``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from care_accel import _native
from care_accel.encoding.runtimes.architectures import describe, unsupported
from care_accel.encoding.spec import EncoderSpec
from care_accel.errors import CareError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

DTYPES = ("float32", "int8")
POOLINGS = ("first", "last", "mean")


@dataclass(frozen=True)
class PlainNetwork:
    """A network without PyTorch.

    Attributes
    ----------
    config : mapping
        Values of its configuration, with all defaults.
    weights : mapping of str to numpy.ndarray
        By transformers' names, float32, C-contiguous.
    """

    config: Mapping[str, Any]
    weights: Mapping[str, NDArray[np.float32]]


class NativeRuntime:
    """Runs a network without PyTorch, in float32 or with int8 weights and activations.

    An embedding is bit-identical whatever the batch and the number of threads. Padding is not computed. Thread-safe;
    concurrent calls are serialised.

    Parameters
    ----------
    network : transformers.PreTrainedModel or PlainNetwork
        In float32, of an architecture in `care_accel.encoding.runtimes.architectures`. Its layers are copied into the native
        layout and its word embeddings are used in place; the rest is not needed afterwards.
    spec : EncoderSpec
        Its dtype is ``float32`` or ``int8``; ``max_tokens`` limits the length of a text, and so does the network's table of
        positions, if it has one.
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
        network: PreTrainedModel | PlainNetwork,
        spec: EncoderSpec,
        *,
        threads: int | None = None,
        instruction_set: str = "",
    ) -> None:
        if reason := self.unsupported_reason(network.config, spec):
            raise CareError(f"runtime 'native' cannot run this network: {reason}; use runtime='pytorch'")
        self.threads = threads or len(os.sched_getaffinity(0))
        self._spec = spec
        if isinstance(network, PlainNetwork):
            made = describe(network.config, network.weights, spec.max_tokens)
        else:
            weights = {name: _array(tensor) for name, tensor in network.state_dict().items()}
            rotary = _rotary(network, spec.max_tokens)
            made = describe(network.config.to_dict(), weights, spec.max_tokens, rotary)
        self._most = made.network["positions"]
        try:
            self._encoder = _native.Encoder(
                **made.network, int8=spec.dtype == "int8", instruction_set=instruction_set
            )
            for layer in made.layers:
                self._encoder.add_layer(**layer)
        except ValueError as wrong:
            raise CareError(f"runtime 'native' cannot use this network's weights: {wrong}") from None

    @staticmethod
    def unsupported_reason(config: PreTrainedConfig | Mapping[str, Any], spec: EncoderSpec) -> str | None:
        """Return why this runtime does not support a network, or None if it does.

        Parameters
        ----------
        config : transformers.PreTrainedConfig or mapping
            Configuration of the network, or all its values.
        spec : EncoderSpec
        """
        if reason := unsupported(config if isinstance(config, Mapping) else config.to_dict()):
            return reason
        if spec.pooling not in POOLINGS:
            return f"supports the poolings {', '.join(POOLINGS)}, not {spec.pooling!r}"
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
        """Encode one padded batch as `encode_rows` does; ids and mask are ``[batch, tokens]`` each."""
        return self.encode_rows(
            [row[kept].tolist() for row, kept in zip(ids, mask.astype(bool), strict=True)]
        )

    def packs(self, rows: Sequence[Sequence[int]]) -> bool:
        """Return True: it computes no padding."""
        return True

    def encode_rows(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Encode the token ids of some texts to float32 ``[texts, width]``.

        Raises
        ------
        CareError
            A text is longer than the network has positions for.
        """
        if (longest := max(map(len, rows), default=0)) > self._most:
            raise CareError(
                f"a text has {longest} tokens, and the network has positions for {self._most}; set max_tokens to "
                f"{self._most} or less, or split the text"
            )
        return self._encoder.encode(
            rows,
            pooling=self._spec.pooling,
            normalize_first=self._spec.order == "normalize-then-slice",
            width=self._spec.width,
            threads=self.threads,
        )


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    """Return a float32 view, or a copy if dtype or layout differ."""
    return tensor.detach().float().cpu().contiguous().numpy()


def _rotary(
    network: PreTrainedModel, max_tokens: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Return cosines and sines of a network's own rotary position embedding, if it has one: there are many types."""
    import torch

    if not hasattr(network, "rotary_emb"):
        return None
    with torch.inference_mode():
        angles = network.rotary_emb(torch.zeros(1), torch.arange(max_tokens, device="cpu")[None])
    cosines, sines = (_array(values[0]) for values in angles)
    return cosines, sines
