"""The paper's losses (section on training), on the inner products of vectors as the model makes them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Features = Iterable[dict[str, torch.Tensor]]


def inner_products(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """Score every query against every document, ``[n, width]`` and ``[m, width]`` to ``[n, m]``."""
    return queries @ documents.T


class InfoNCE(MultipleNegativesRankingLoss):
    """InfoNCE in one direction, queries to all documents of the batch, of every process.

    For query i: -log( exp(q_i.d_i / t) / sum_j exp(q_i.d_j / t) ), j over all positives and negatives. No
    cosine: vectors come as the model makes them.

    Parameters
    ----------
    model : SentenceTransformer
    temperature : float
    widths : sequence of int
        Matryoshka: the loss is the mean over these leading widths, which are not normalised again
        (paper, initialisation of the document encoder). Empty for the full width alone.
    """

    def __init__(self, model: SentenceTransformer, temperature: float, widths: Sequence[int] = ()) -> None:
        super().__init__(
            model,
            scale=1.0 / temperature,
            similarity_fct=inner_products,
            gather_across_devices=int(os.environ.get("WORLD_SIZE", "1")) > 1,
        )
        self.widths = tuple(widths)

    def compute_loss_from_embeddings(
        self, embeddings: list[torch.Tensor], labels: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss of vectors, each ``[batch, width]``: queries, positives, negatives."""
        one_width = super().compute_loss_from_embeddings
        if not self.widths:
            return one_width(embeddings, labels)
        cuts = [[vectors[:, :width] for vectors in embeddings] for width in self.widths]
        return torch.stack([one_width(cut, labels) for cut in cuts]).mean()


class Alignment(torch.nn.Module):
    """InfoNCE and mean squared distance between a text's two vectors, the paper's Stage I.

    The document encoder's vectors come as labels, computed before: nothing flows back into it. The distance
    is the squared L2 distance, summed over the width and averaged over the texts.

    Parameters
    ----------
    model : SentenceTransformer
        Its query route is trained.
    temperature : float
    info_nce_weight, mse_weight : float
        One of them may be 0.
    """

    def __init__(
        self, model: SentenceTransformer, temperature: float, info_nce_weight: float, mse_weight: float
    ) -> None:
        super().__init__()
        self.model = model
        self.info_nce = InfoNCE(model, temperature)
        self.weights = info_nce_weight, mse_weight

    def forward(self, sentence_features: Features, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch of texts and their document vectors, float32 ``[batch, width]``."""
        (features,) = sentence_features
        ours, theirs = self.model(features)["sentence_embedding"], labels.detach()
        info_nce_weight, mse_weight = self.weights
        loss = ours.new_zeros(())
        if info_nce_weight:
            loss = loss + info_nce_weight * self.info_nce.compute_loss_from_embeddings([ours, theirs], labels)
        if mse_weight:
            loss = loss + mse_weight * (ours.float() - theirs).square().sum(dim=1).mean()
        return loss
