"""An error that broken weights cause is told as what it is: a diverged training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stable_baselines3.common.base_class import BaseAlgorithm

from ebrl.agents.finite import check_finite_agent


@contextmanager
def explained_by_divergence(agent: BaseAlgorithm) -> Iterator[None]:
    """Raise DivergedError in place of an error that is caused by weights that are not finite."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        check_finite_agent(agent)
        raise error
