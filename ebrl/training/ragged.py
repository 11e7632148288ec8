"""Data whose rows have different lengths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Ragged(Dataset):
    """Rows of integers, `(length_i,)` each and none empty, held as one flat tensor.

    `padding` fills a batch after the end of each row.
    """

    def __init__(self, rows: Sequence[Tensor], padding: int = 0):
        self.lengths = torch.tensor([len(row) for row in rows])
        if not len(rows) or not self.lengths.all():
            raise ValueError(f"expected rows of at least one number each, got {len(rows)} rows")
        self.flat = torch.cat(list(rows))  # (total,)
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.padding = padding

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> Tensor:
        start = int(self.starts[row])
        return self.flat[start : start + int(self.lengths[row])].long()

    def row_of(self, place: Tensor) -> Tensor:
        """Return the rows that hold the integers at `place: (*batch,)` of `flat`."""
        return torch.searchsorted(self.starts, place, right=True) - 1

    def batch(self, index: Tensor) -> Tensor:
        """Return the rows `index: (batch,)`, padded to the longest, `(batch, longest)` int64."""
        lengths = self.lengths[index]
        place = torch.arange(int(lengths.max()))
        inside = place < lengths.unsqueeze(1)  # (batch, longest)
        at = (self.starts[index].unsqueeze(1) + place).clamp_(max=len(self.flat) - 1)
        return torch.where(inside, self.flat[at].long(), self.padding)
