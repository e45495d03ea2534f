"""A network whose layers PyTorch's compiler has fused: about half as many kernels for a GPU to run.

A batch of queries is bound by the number of kernels even as a CUDA graph. Layers are compiled one by one, for sizes
that are not known yet: all ordinary layers share one program, so that it takes seconds, not a minute for each bucket.
"""

from __future__ import annotations

import copy
import logging

import torch
from torch import nn

from care_accel.encoding.last_layer import PooledNetwork

log = logging.getLogger(__name__)


def with_compiled_layers(encode: PooledNetwork, device: str, backend: str = "inductor") -> PooledNetwork:
    """Return a copy whose layers are compiled; the weights are shared, and the original stays as it is.

    The vectors equal the original's to rounding. Where the compiler is not there or fails, the original is returned
    and a warning logged.

    Parameters
    ----------
    encode : PooledNetwork
    device : str
        Where the network lies.
    backend : str
        Of ``torch.compile``.
    """
    network = copy.copy(encode.network)
    layers = [copy.copy(layer) for layer in network.layers]
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
    network._modules = network._modules | {"layers": nn.ModuleList(layers)}
    compiled = copy.copy(encode)
    compiled._modules = encode._modules | {"network": network}
    try:
        with torch.inference_mode():
            # As aligned as a bucket and as general: the compiler makes another program for what is not, and takes sizes
            # that are equal here, to each other or to the network's, for one and the same.
            ids = torch.ones((2, 48), dtype=torch.int64, device=device)
            compiled(ids, torch.ones_like(ids))
    except (RuntimeError, OSError) as cause:  # no Triton, no C compiler, an operation that it does not know
        log.warning("the network is not compiled: %s", " ".join(str(cause).split())[:300])
        return encode
    return compiled
