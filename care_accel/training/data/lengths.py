"""Texts of a training step in groups of similar length: the negatives of a query differ in length from it and each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.base.losses.merged_forward import merge_feature_batches

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# A group of fewer texts is not worth a forward pass of its own, and in one of more the shortest has at least this share of
# the tokens of the longest.
_FEWEST, _SHORTEST = 8, 0.75


def groups_of_similar_length(lengths: Sequence[int]) -> list[list[int]]:
    """Divide texts into groups that are padded to their longest.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each text.

    Returns
    -------
    list of list of int
        Positions in ``lengths``, of the longest texts first; each position is in one group. A group of more than eight has no text
        that is shorter than three quarters of its longest, but what is too few for a group of its own joins the last one.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups: list[list[int]] = []
    for i in order:
        last = groups[-1] if groups else None
        if last is None or (len(last) >= _FEWEST and lengths[i] < _SHORTEST * lengths[last[0]]):
            groups.append([])
        groups[-1].append(i)
    if len(groups) > 1 and len(groups[-1]) < _FEWEST:
        short = groups.pop()
        groups[-1] += short
    return groups


def embed_by_length(model: SentenceTransformer, columns: Sequence[dict[str, Any]]) -> list[torch.Tensor]:
    """Embed columns of texts of one encoder in groups of similar length; the vectors are those of one pass, up to rounding.

    Parameters
    ----------
    model : SentenceTransformer
    columns : sequence of dict
        Features of the texts of each column, of as many rows.

    Returns
    -------
    list of torch.Tensor
        ``[rows, width]`` for each column.
    """
    texts = merge_feature_batches(list(columns)) if len(columns) > 1 else columns[0]
    if texts is None or "attention_mask" not in texts:
        return [model(features)["sentence_embedding"] for features in columns]
    mask = texts["attention_mask"]
    groups = groups_of_similar_length(mask.sum(dim=1).tolist())
    if len(groups) == 1:
        embeddings = model(texts)["sentence_embedding"]
    else:
        parts = [model(_rows(texts, group))["sentence_embedding"] for group in groups]
        order = torch.tensor([i for group in groups for i in group], device=mask.device)
        embeddings = torch.cat(parts)[torch.argsort(order)]
    return list(embeddings.chunk(len(columns)))


def _rows(texts: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """Return the features of some texts, padded on the right to the longest of them.

    Texts that were padded on the left are moved: only networks with rotary positions are, for which distances count alone.
    """
    mask = texts["attention_mask"]
    row = torch.tensor(rows, device=mask.device)
    lengths = mask[row].sum(dim=1, keepdim=True)
    tokens = torch.arange(int(lengths.max()), device=mask.device)
    first = mask[row].argmax(dim=1, keepdim=True)
    place = (first + tokens).clamp(max=mask.shape[1] - 1)

    def chosen(name: str, value: Any) -> Any:
        shape = getattr(value, "shape", ())
        if shape[:2] == mask.shape:
            found = value[row.unsqueeze(1), place]
            return found * (tokens < lengths) if name == "attention_mask" else found
        return value[row] if shape[:1] == mask.shape[:1] else value

    return {name: chosen(name, value) for name, value in texts.items()}
