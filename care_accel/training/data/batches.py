"""Batches grouped by length, to save padding, and without duplicate texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sentence_transformers.base.sampler import DefaultBatchSampler

from care_accel.errors import CareError

if TYPE_CHECKING:
    from datasets import Dataset

# Batches per sorting window: more save padding, fewer mix lengths better.
_WINDOW = 64


class LengthGroupedBatchSampler(DefaultBatchSampler):
    """Random batches of rows of similar length.

    Rows are shuffled, sorted within windows of many batches and cut into batches, whose order is shuffled
    again. A duplicate text in a batch would be a false negative: its row goes to a later batch.

    Parameters
    ----------
    dataset : datasets.Dataset
    batch_size : int
    drop_last : bool
        Only full batches, as needed for several processes.
    options
        Further arguments of the trainer.

    Raises
    ------
    CareError
        ``drop_last`` is set and there is no full batch.
    """

    def __init__(self, dataset: Dataset, batch_size: int, drop_last: bool, **options: Any) -> None:
        super().__init__(dataset, batch_size=batch_size, drop_last=drop_last, **options)
        if drop_last and len(dataset) < batch_size:
            raise CareError(
                f"a file has {len(dataset)} rows, the batch of all processes {batch_size}; lower batch_size"
            )
        columns = [
            name
            for name in dataset.column_names
            if getattr(dataset.features[name], "dtype", None) == "string"
        ]
        texts = [dataset[name][:] for name in columns]
        self._lengths = np.sum([[len(text) for text in column] for column in texts], axis=0)
        self._texts = list(zip(*[[hash(text) for text in column] for column in texts], strict=True))

    def __len__(self) -> int:
        full, rest = divmod(len(self._texts), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self._texts), generator=generator).numpy()
        size = self.batch_size * _WINDOW
        batches: list[list[int]] = []
        waiting: list[int] = []
        for start in range(0, len(order), size):
            rows = np.concatenate([waiting, order[start : start + size]]).astype(np.int64)
            waiting = rows[np.argsort(self._lengths[rows], kind="stable")].tolist()
            while len(waiting) >= self.batch_size:
                batch, waiting = self._take(waiting)
                batches.append(batch)
        while waiting:
            batch, waiting = self._take(waiting)
            batches.append(batch)
        # With duplicates there are more, partly filled batches: surplus ones are dropped in this epoch.
        batches.sort(key=len, reverse=True)
        chosen = [
            batch for batch in batches[: len(self)] if len(batch) == self.batch_size or not self.drop_last
        ]
        for position in torch.randperm(len(chosen), generator=generator).tolist():
            yield chosen[position]

    def _take(self, rows: list[int]) -> tuple[list[int], list[int]]:
        """Split off the first batch without duplicate texts."""
        batch: list[int] = []
        left: list[int] = []
        seen: set[int] = set()
        for position, row in enumerate(rows):
            if len(batch) == self.batch_size:
                return batch, left + rows[position:]
            if seen.isdisjoint(self._texts[row]):
                batch.append(row)
                seen.update(self._texts[row])
            else:
                left.append(row)
        return batch, left
