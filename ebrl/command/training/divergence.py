"""A diverged training stops before it overwrites a good checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from ebrl.agents.checkpoints import Checkpoints
from ebrl.training import DivergedError


class GoodCheckpoints(Checkpoints):
    """Checkpoints of finite weights and moments alone, so that the last good one stays.

    Raises:
        DivergedError: If they are not finite when a checkpoint is due.
    """

    def write(self) -> Path:
        """Write now and drop the oldest, unless the weights are not finite."""
        check_finite(self.model)
        return super().write()


def check_finite(agent: BaseAlgorithm) -> None:
    """Raise DivergedError where a weight or an optimiser's moment is not finite.

    It waits for the device: call it where files are written.
    """
    for name, tensor in _tensors("", agent.get_parameters()):
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DivergedError(
                f"diverged by step {agent.num_timesteps:,}: `{name}` is not finite; "
                "lower the learning rate, or normalise rewards that are large (--normalize both)"
            )


def _tensors(place: str, state: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested state dictionaries, each with its place."""
    if isinstance(state, Tensor):
        yield place, state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from _tensors(f"{place}.{key}" if place else str(key), value)


@contextmanager
def explained_by_divergence(agent: BaseAlgorithm) -> Iterator[None]:
    """Raise DivergedError in place of an error that is caused by weights that are not finite."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        check_finite(agent)
        raise error
