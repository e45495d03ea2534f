"""Writes a dual encoder as a sentence-transformers folder with a Router."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from care_accel.encoding.dual import DualEncoder
from care_accel.encoding.loading.dense import LIBRARY_ACTIVATIONS, load_tensors
from care_accel.encoding.loading.quiet import quiet_transformers
from care_accel.encoding.loading.router_format import LIBRARY_POOLINGS
from care_accel.encoding.spec import PLAIN, ROLES, Dense
from care_accel.errors import CareError


def write_router_format(model: DualEncoder, folder: str | Path) -> None:
    """Write a dual encoder as a sentence-transformers folder with a Router (needs the extra ``train``).

    The prompts are those of retrieval, because the format has one prompt per role.

    Parameters
    ----------
    model : DualEncoder
        Both encoders are loaded.
    folder : str or Path
        Created if missing.

    Raises
    ------
    CareError
        A prompt has text after ``{text}`` (the format supports prefixes only), or an encoder slices before normalising.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Router, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    prompts, routes, sliced = {}, {}, set()
    for role in ROLES:
        encoder = model.encoder(role)
        spec, source = encoder.spec, model.source(role)
        checkpoint = source.checkpoint
        checkpoint.require_full_vocabulary("the sentence-transformers format cannot store it; write")
        template = spec.prompt("retrieval")
        if not template.endswith(PLAIN):
            raise CareError(
                f"the {role} prompt has text after {PLAIN}; the sentence-transformers format supports prefixes only"
            )
        prompts[role] = template.removesuffix(PLAIN)
        if spec.width < source.full_width:
            sliced.add(spec.order)
        with tempfile.TemporaryDirectory() as place, quiet_transformers():
            if checkpoint.stored_int8:
                checkpoint.save_float32(Path(place))
            stored = place if checkpoint.stored_int8 else str(checkpoint.folder)
            transformer = Transformer(stored, max_seq_length=spec.max_tokens)
        pooling = Pooling(
            checkpoint.hidden_size,
            pooling_mode=LIBRARY_POOLINGS[spec.pooling],
            include_prompt=spec.include_prompt,
        )
        dense = _dense_modules(spec.dense, checkpoint.dense_files)
        routes[role] = [transformer, pooling, *dense, Normalize()]
    if sliced - {"normalize-then-slice"}:
        raise CareError(
            "the sentence-transformers format slices after normalising, but these encoders slice before; save them "
            "with save_pretrained"
        )
    library_model = SentenceTransformer(
        modules=[Router.for_query_document(routes["query"], routes["document"])],
        prompts=prompts,
        truncate_dim=model.width,
        similarity_fn_name="dot",
    )
    with quiet_transformers():
        library_model.save(str(folder))


def _dense_modules(layers: Sequence[Dense], files: Sequence[Path]) -> list[Any]:
    """Return the modules of dense layers, with their weights."""
    import torch
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import Dense as LibraryDense

    modules: list[Any] = []
    for layer, file in zip(layers, files, strict=True):
        weight, bias = load_tensors(file)
        activation = getattr(torch.nn, LIBRARY_ACTIVATIONS[layer.activation])()
        modules += [Normalize()] * layer.normalize
        modules.append(LibraryDense(weight.shape[1], weight.shape[0], layer.bias, activation, weight, bias))
    return modules
