"""The moving average of an energy's weights."""

from __future__ import annotations

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ebrl.energies import Energy


def moving_average(energy: Energy, decay: float) -> AveragedModel:
    """Return the exponential moving average of the parameters, to be updated after each step.

    Buffers are copied: averages of what they hold, such as the vectors of a spectral norm, mean
    nothing.

    Raises:
        ValueError: If the decay is outside (0, 1).
    """
    if not 0 < decay < 1:
        raise ValueError(f"expected 0 <= ema_decay < 1, got {decay}")
    return AveragedModel(energy, multi_avg_fn=get_ema_multi_avg_fn(decay))
