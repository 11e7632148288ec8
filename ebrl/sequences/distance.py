"""How many edits lie between sentences: what keeps a repair close to what was written."""

from __future__ import annotations

import torch
from torch import Tensor

from ebrl.energies import Energy
from ebrl.spaces import string_lengths


class EditDistance(Energy):
    """The fewest substitutions, insertions and deletions from `original` (Levenshtein 1966).

    Args:
        original: Tokens without padding, `(length,)`.
    """

    event_ndim = 1
    original: Tensor

    def __init__(self, original: Tensor):
        super().__init__()
        self.register_buffer("original", original)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(x.shape[:-1].numel(), x.shape[-1])
        place = torch.arange(rows.shape[1] + 1, device=x.device)
        # distance[:, j] is that of the first j tokens of x from the original's tokens so far.
        distance = place.expand(len(rows), -1)  # (n, longest + 1)
        for token in self.original:
            changed = torch.minimum(distance[:, 1:] + 1, distance[:, :-1] + (rows != token).long())
            started = torch.cat([distance[:, :1] + 1, changed], 1)
            # A token of x may be an insertion after any shorter start.
            distance = (started - place).cummin(1).values + place
        last = string_lengths(rows).unsqueeze(1)
        return distance.gather(1, last).squeeze(1).float().view(x.shape[:-1])
