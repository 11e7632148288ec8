"""The posteriors of `posterior.py`: each as an energy for us and as a log density for JAX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from ebrl.energies import Energy, FunctionEnergy, Funnel
from ebrl.spaces import HalfLine, Space, Unbounded


class Task(NamedTuple):
    """A posterior. JAX sees free coordinates u, in which a scale is exp(u)."""

    dimension: int
    energy: Energy
    space: Space
    log_density: Callable[[Any], Any]  # of u `(dimension,)`, with the Jacobian
    exact: Callable[[np.random.Generator, int], np.ndarray] | None = None  # independent draws of u


SCHOOLS = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
ERRORS = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]


def eight_schools() -> Task:
    """Return the eight schools (Rubin 1981), non-centred, with the scale on a half-line."""
    effect, error = torch.tensor(SCHOOLS), torch.tensor(ERRORS)

    def energy(x: Tensor) -> Tensor:
        mean, scale, z = x[:, :1], x[:, 1:2], x[:, 2:]
        misfit = ((mean + scale * z - effect) / error).square().sum(-1)
        prior = (mean[:, 0] / 5).square() + z.square().sum(-1)
        return (misfit + prior) / 2 + torch.log1p((scale[:, 0] / 5).square())

    def log_density(u: Any) -> Any:
        import jax.numpy as jnp

        mean, scale, z = u[0], jnp.exp(u[1]), u[2:]
        misfit = (((mean + scale * z - np.array(SCHOOLS)) / np.array(ERRORS)) ** 2).sum()
        prior = (mean / 5) ** 2 + (z**2).sum()
        return -(misfit + prior) / 2 - jnp.log1p((scale / 5) ** 2) + u[1]

    low = torch.full((10,), -math.inf)
    low[1] = 0.0
    return Task(10, FunctionEnergy(energy), HalfLine(10, low), log_density)


def logistic_regression() -> Task:
    """Return a logistic regression of the size of the German credit data, on a fixed design."""
    rng = np.random.default_rng(20)
    mixing = np.eye(24) + 0.06 * rng.standard_normal((24, 24))
    columns = rng.standard_normal((1000, 24)) @ mixing
    design = np.concatenate([np.ones((1000, 1)), columns / columns.std(0)], 1).astype(np.float32)
    truth = 0.4 * rng.standard_normal(25)
    outcome = (rng.random(1000) < 1 / (1 + np.exp(-design @ truth))).astype(np.float32)
    columns_first, labels = torch.as_tensor(design.T.copy()), torch.as_tensor(outcome)

    def energy(x: Tensor) -> Tensor:
        z = x @ columns_first
        return (softplus(z) - labels * z).sum(-1) + x.square().sum(-1) / 2

    def log_density(u: Any) -> Any:
        import jax.numpy as jnp

        z = design @ u
        return -(jnp.logaddexp(z, 0.0) - outcome * z).sum() - (u**2).sum() / 2

    return Task(25, FunctionEnergy(energy), Unbounded(25), log_density)


def funnel() -> Task:
    """Return Neal's funnel in ten dimensions, centred, which every NUTS explores with bias."""

    def log_density(u: Any) -> Any:
        import jax.numpy as jnp

        return -(u[0] ** 2) / 18 - (u[1:] ** 2).sum() * jnp.exp(-u[0]) / 2 - 4.5 * u[0]

    def exact(rng: np.random.Generator, count: int) -> np.ndarray:
        v = 3 * rng.standard_normal((count, 1))
        return np.concatenate([v, np.exp(v / 2) * rng.standard_normal((count, 9))], 1)

    return Task(10, Funnel(10), Unbounded(10), log_density, exact)


def hierarchical() -> Task:
    """Return groups with a common mean and a half-normal scale, 12 groups of 5 observations."""
    rng = np.random.default_rng(7)
    y = (1.0 + 0.8 * rng.standard_normal((12, 1)) + rng.standard_normal((12, 5))).mean(1)
    seen = torch.as_tensor(y.astype(np.float32))

    def energy(x: Tensor) -> Tensor:
        mean, scale, group = x[:, :1], x[:, 1:2], x[:, 2:]
        misfit = 5 * (group - seen).square().sum(-1)
        spread = ((group - mean) / scale).square().sum(-1)
        prior = (mean[:, 0] / 10).square() + scale[:, 0].square()
        return (misfit + spread + prior) / 2 + 12 * scale[:, 0].log()

    def log_density(u: Any) -> Any:
        import jax.numpy as jnp

        mean, scale, group = u[0], jnp.exp(u[1]), u[2:]
        misfit = 5 * ((group - y) ** 2).sum()
        spread = (((group - mean) / scale) ** 2).sum()
        return -(misfit + spread + (mean / 10) ** 2 + scale**2) / 2 - 12 * u[1] + u[1]

    low = torch.full((14,), -math.inf)
    low[1] = 0.0
    return Task(14, FunctionEnergy(energy), HalfLine(14, low), log_density)


TASKS = {
    "logistic regression": logistic_regression,
    "eight schools": eight_schools,
    "hierarchical": hierarchical,
    "funnel": funnel,
}
