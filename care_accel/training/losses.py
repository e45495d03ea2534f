"""The paper's losses (section on training), on inner products of the model's vectors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.base.losses.gradcache import CachedLossMixin
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from care_accel.training.data.lengths import embed_by_length

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Features = Iterable[dict[str, torch.Tensor]]

# Inverse temperature of CoSENT, its author's.
_COSENT_SCALE = 20.0


def inner_products(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """Score every query against every document, ``[n, width]`` and ``[m, width]`` to ``[n, m]``."""
    return queries @ documents.T


def cosent(scores: torch.Tensor, grades: torch.Tensor) -> torch.Tensor:
    """CoSENT (Su, 2022): log(1 + sum of exp(20 (s_i - s_j)) over all pairs of rows with grade_i < grade_j).

    Parameters
    ----------
    scores : torch.Tensor
        ``[n]``, the inner product of each row's two vectors.
    grades : torch.Tensor
        ``[n]``.
    """
    differences = _COSENT_SCALE * (scores[:, None] - scores[None, :]).float()
    wrong_if_positive = differences[grades[:, None] < grades[None, :]]
    return torch.logsumexp(torch.cat([wrong_if_positive.new_zeros(1), wrong_if_positive]), dim=0)


class InfoNCE(CachedLossMixin, MultipleNegativesRankingLoss):
    """InfoNCE from queries to all documents of the batch, gathered over processes; CoSENT for graded pairs.

    For query i: -log( exp(q_i.d_i / t) / sum_j exp(q_i.d_j / t) ), j over all positives and negatives.
    Vectors are used as the model makes them, without cosine normalisation.

    A batch with labels has one document a query, and each label is a pair's grade: see `cosent`.

    Parameters
    ----------
    model : SentenceTransformer
    temperature : float
    widths : sequence of int
        Matryoshka: the loss is the mean over these leading widths, which are not normalised again
        (paper, initialisation of the document encoder). Empty for the full width alone.
    mini_batch_size : int, optional
        Texts encoded at a time, to save memory: gradients are cached at the vectors and every text is encoded
        twice (GradCache; Gao et al., 2021). The loss is the same.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        temperature: float,
        widths: Sequence[int] = (),
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            model,
            scale=1.0 / temperature,
            similarity_fct=inner_products,
            gather_across_devices=int(os.environ.get("WORLD_SIZE", "1")) > 1,
        )
        self.widths = tuple(widths)
        self.mini_batch_size = mini_batch_size or 0
        self.uses_gradient_cache = mini_batch_size is not None

    def forward(self, sentence_features: Features, labels: torch.Tensor | None) -> torch.Tensor:
        """Return the loss of a batch: queries, positives, negatives, each tokenized."""
        if labels is not None:
            queries, documents = [
                self.model(features)["sentence_embedding"] for features in sentence_features
            ]
            return cosent((queries * documents).sum(dim=1), labels)
        if self.uses_gradient_cache:
            return self.forward_cached(sentence_features, labels)
        queries, *documents = sentence_features
        embeddings = [*embed_by_length(self.model, [queries]), *embed_by_length(self.model, documents)]
        return self.compute_loss_from_embeddings(embeddings, labels)

    def calculate_loss(
        self,
        reps: list[list[torch.Tensor]],
        labels: torch.Tensor | None = None,
        *,
        with_backward: bool = False,
    ) -> torch.Tensor:
        """Return the loss of vectors computed in mini-batches; see `CachedLossMixin`."""
        loss = self.compute_loss_from_embeddings([torch.cat(column) for column in reps], labels)
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss

    def compute_loss_from_embeddings(
        self, embeddings: list[torch.Tensor], labels: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the loss of vectors, each ``[batch, width]``: queries, positives, negatives."""
        one_width = super().compute_loss_from_embeddings
        if not self.widths:
            return one_width(embeddings, labels)
        cuts = [[vectors[:, :width] for vectors in embeddings] for width in self.widths]
        return torch.stack([one_width(cut, labels) for cut in cuts]).mean()


class Alignment(torch.nn.Module):
    """InfoNCE and mean squared distance between a text's two vectors, the paper's Stage I.

    The document encoder's vectors are precomputed labels, without gradient. The distance is the squared L2 distance, summed over the width and averaged over the texts.

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


class LanguageModel(torch.nn.Module):
    """Causal or masked language modelling loss.

    A causal network predicts the next token, another one masked tokens. Logits are inner products with the input
    embeddings (tied weights), so no head is discarded afterwards.

    Parameters
    ----------
    model : SentenceTransformer
        Its first module is trained.
    causal : bool
    mask_ratio : float
        Share of masked tokens, for networks that are not causal.
    """

    def __init__(self, model: SentenceTransformer, *, causal: bool, mask_ratio: float) -> None:
        super().__init__()
        self.model = model
        self.causal = causal
        self.mask_ratio = mask_ratio

    def forward(self, sentence_features: Features, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Return the loss of a batch of tokenized texts."""
        (features,) = sentence_features
        tokens, real = features["input_ids"], features["attention_mask"].bool()
        if self.causal:
            targets = real[:, 1:] & real[:, :-1]
            return self._cross_entropy(features, tokens[:, 1:], targets)
        masked = real & (torch.rand(tokens.shape, device=tokens.device) < self.mask_ratio)
        masked[0, int(real[0].int().argmax())] |= not masked.any()  # at least one token
        mask = self._transformer.tokenizer.mask_token_id
        return self._cross_entropy(features | {"input_ids": tokens.masked_fill(masked, mask)}, tokens, masked)

    def _cross_entropy(
        self, features: dict[str, torch.Tensor], tokens: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        states = self.model(features)["token_embeddings"]
        vectors = self._transformer.model.get_input_embeddings().weight
        found = states[:, : tokens.shape[1]][targets]
        logits = found @ vectors.to(found.dtype).T
        return torch.nn.functional.cross_entropy(logits.float(), tokens[targets])

    @property
    def _transformer(self) -> Any:
        model: Any = getattr(self.model, "module", self.model)  # as DistributedDataParallel wraps it
        return model[0]
