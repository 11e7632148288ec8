"""Draws as ArviZ's `InferenceData`, for its plots, summaries and comparisons."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ebrl.kernels.protocol import Info

NAMES = {  # our names, and those of ArviZ's schema
    "depth": "tree_depth",
    "leapfrogs": "n_steps",
    "hamiltonian": "energy",
    "saturated": "reached_max_treedepth",
}


def inference_data(x: Tensor, energy: Tensor, each: Info, temperature: Tensor, name: str) -> Any:
    """Return the draws as an `arviz.InferenceData`; see `Trace.to_arviz`."""
    try:
        import arviz
    except ImportError as error:
        raise ImportError("to_arviz needs ArviZ: pip install 'ebrl[arviz]'") from error
    batch_ndim = energy.ndim - 1
    stats = {
        "acceptance_rate": each.acceptance,
        "diverging": each.diverged,
        **({"lp": -energy / temperature} if (temperature > 0).all() else {}),
        **{NAMES.get(key, key): value for key, value in each.extra.items()},
    }
    arrays = {key: _by_chain(value, batch_ndim) for key, value in stats.items()}
    if "reached_max_treedepth" in arrays:
        arrays["reached_max_treedepth"] = arrays["reached_max_treedepth"] > 0
    return arviz.from_dict(posterior={name: _by_chain(x, batch_ndim)}, sample_stats=arrays)


def _by_chain(field: Tensor, batch_ndim: int) -> np.ndarray:
    """Return `(chains, draws, …)` of `(draws, *batch, …)`."""
    rows = field.flatten(1, batch_ndim) if batch_ndim else field.unsqueeze(1)
    array: np.ndarray = rows.transpose(0, 1).cpu().numpy()
    return array
