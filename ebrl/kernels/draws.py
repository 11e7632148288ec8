"""Random numbers beside a tensor, and choices among candidates.

Noise is drawn in the order of the axes, for every memory layout.
"""

from __future__ import annotations

import torch
from torch import Tensor


def normal_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw standard normal numbers of the shape and dtype of x."""
    return torch.empty_like(x, memory_format=torch.contiguous_format).normal_(generator=generator)


def uniform_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw uniform numbers in [0, 1) of the shape and dtype of x."""
    return torch.empty_like(x, memory_format=torch.contiguous_format).uniform_(generator=generator)


def gumbel_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw standard Gumbel numbers of the shape and dtype of x."""
    tiny = torch.finfo(x.dtype).tiny
    return -(-uniform_like(x, generator).clamp_min(tiny).log()).clamp_min(tiny).log()


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """Return an index drawn with probabilities `weights: (*batch, n)`, by one uniform each."""
    cumulative = weights.cumsum(-1)
    # Rounding may leave the last sum below the uniform number: scaling keeps the index in range.
    threshold = (uniform * cumulative[..., -1]).unsqueeze(-1)
    index = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
    return index.clamp(max=weights.shape[-1] - 1)


def take(candidates: Tensor, index: Tensor) -> Tensor:
    """Return `candidates[*batch, index[*batch]]` from `(*batch, n, *event)`."""
    event = candidates.shape[index.ndim + 1 :]
    where = index.reshape(*index.shape, *(1,) * (candidates.ndim - index.ndim))
    where = where.expand(*index.shape, 1, *event)  # ONNX has no take_along_dim
    return candidates.gather(index.ndim, where).squeeze(index.ndim)


def take_along(field: Tensor, index: Tensor, axis: int) -> Tensor:
    """Return `torch.take_along_dim` with the same index for all further axes of the field."""
    index = index.reshape(*index.shape, *(1,) * (field.ndim - index.ndim))
    return torch.take_along_dim(field, index, axis)
