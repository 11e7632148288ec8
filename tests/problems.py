"""Targets with known answers: each was chosen for the bug that it reveals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ebrl import Energy, FunctionEnergy, Gaussian, Mixture
from ebrl.energies import Banana, DoubleWell, Funnel, Ring
from ebrl.spaces import Categorical


def _tensor(array: np.ndarray) -> Tensor:
    return torch.as_tensor(array, dtype=torch.float32)


class Problem(NamedTuple):
    """A density `∝ exp(-E/T)` with its moments and exact draws at every temperature."""

    name: str
    energy: Energy
    mean: Callable[[float], Tensor]  # T -> (d,)
    variance: Callable[[float], Tensor]  # T -> (d,)
    exact: Callable[[int, float, np.random.Generator], Tensor]  # (n, T) -> (n, d)

    def __repr__(self) -> str:
        return self.name


DEVIATIONS = torch.tensor([0.5, 1.0, 2.0])
MEANS = torch.tensor([1.0, 0.0, -1.0])

# Scales that differ show a step size that is used for the whole event at once.
scales = Problem(
    "scales",
    Gaussian(MEANS, DEVIATIONS, 3),
    mean=lambda temperature: MEANS,
    variance=lambda temperature: temperature * DEVIATIONS.square(),
    exact=lambda n, temperature, rng: (
        MEANS + temperature**0.5 * DEVIATIONS * _tensor(rng.standard_normal((n, 3)))
    ),
)

SHAPE = 2.0
# `x = log y` with `y ~ Gamma(shape/T, scale T)`. A symmetric target hides a drift of the wrong
# sign in the acceptance test, and one that is quadratic hides errors of third order.
skewed = Problem(
    "skewed",
    FunctionEnergy(lambda x: (x.exp() - SHAPE * x).sum(-1)),
    mean=lambda temperature: (
        torch.digamma(torch.full((2,), SHAPE / temperature)) + math.log(temperature)
    ),
    variance=lambda temperature: torch.polygamma(1, torch.full((2,), SHAPE / temperature)),
    exact=lambda n, temperature, rng: _tensor(
        np.log(rng.gamma(SHAPE / temperature, temperature, (n, 2)))
    ),
)

PROBLEMS = [scales, skewed]


def known(name: str, target: Banana | DoubleWell | Funnel | Ring) -> Problem:
    def exact(n: int, temperature: float, rng: np.random.Generator) -> Tensor:
        stream = generator(int(rng.integers(2**31)))
        return target.tempered(temperature).sample((n,), stream)

    return Problem(
        name,
        target,
        mean=lambda temperature: target.tempered(temperature).mean,
        variance=lambda temperature: target.tempered(temperature).variance,
        exact=exact,
    )


# Harder ones: a neck that needs small steps, a bent valley, a wall between unequal wells, a ring
# without a mode. The funnel's deviation is small enough for its fourth moments to be estimated.
CURVED = [
    known("funnel", Funnel(3, deviation=0.7)),
    known("banana", Banana(curvature=0.5)),
    known("double well", DoubleWell(barrier=1.0, tilt=0.3, dimension=2)),
    known("ring", Ring(radius=1.5, deviation=0.4)),
]


class Modes(NamedTuple):
    """Two unequal modes that no gradient step connects."""

    energy: Energy
    share: float  # of the probability right of 0

    @staticmethod
    def exact(n: int, rng: np.random.Generator) -> Tensor:
        sign = np.where(rng.random((n, 1)) < 0.7, 1.0, -1.0)
        return _tensor(3 * sign + 0.5 * rng.standard_normal((n, 1)))


MODES = Modes(Mixture([Gaussian(3.0, 0.5, 1), Gaussian(-3.0, 0.5, 1)], [0.7, 0.3]), share=0.7)


class Truncated(NamedTuple):
    """A Gaussian cut off by the walls of [-1, 1]: three tenths of its mass would lie outside."""

    energy: Energy = Gaussian(0.8, 0.4, 1)

    @staticmethod
    def probabilities(bins: int, temperature: float = 1.0) -> Tensor:
        """Return the mass of each of `bins` equal parts of [-1, 1]."""
        edges = torch.linspace(-1, 1, bins + 1, dtype=torch.float64)
        deviation = 0.4 * temperature**0.5
        mass = torch.special.ndtr((edges - 0.8) / deviation).diff()
        return mass / mass.sum()


class Discrete(NamedTuple):
    """An energy of few enough one-hot configurations to enumerate."""

    name: str
    energy: Energy
    sites: int
    categories: int

    @property
    def space(self) -> Categorical:
        return Categorical(self.sites, self.categories)

    def configurations(self) -> Tensor:
        """Return all of them, `(categories ** sites, sites, categories)`."""
        grid = torch.cartesian_prod(*[torch.arange(self.categories)] * self.sites)
        return torch.nn.functional.one_hot(grid, self.categories).float()

    def probabilities(self, temperature: float = 1.0) -> Tensor:
        return torch.softmax(-self.energy(self.configurations()).double() / temperature, 0)

    def index(self, x: Tensor) -> Tensor:
        """Return which configuration each of `x: (*batch, sites, categories)` is."""
        places = self.categories ** torch.arange(self.sites - 1, -1, -1)
        return (x.argmax(-1) * places).sum(-1)

    def __repr__(self) -> str:
        return self.name


def pairwise(sites: int, categories: int, strength: float = 1.0) -> Energy:
    """Return the energy of a ring with random fields and couplings, of this order of size."""
    rng = np.random.default_rng(sites * categories)
    field = _tensor(rng.normal(0, strength, (sites, categories)))
    coupling = _tensor(rng.normal(0, strength, (categories, categories)))

    def function(x: Tensor) -> Tensor:  # (*batch, sites, categories)
        neighbours = ((x @ coupling.to(x)) * x.roll(1, -2)).sum((-2, -1))
        return (field.to(x) * x).sum((-2, -1)) + neighbours

    return FunctionEnergy(function, event_ndim=2)


DISCRETE = [
    Discrete("ising-4", pairwise(4, 2), 4, 2),
    Discrete("ising-6", pairwise(6, 2), 6, 2),
    Discrete("potts-4", pairwise(4, 3), 4, 3),
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def total_variation(counts: Tensor, probabilities: Tensor) -> float:
    return float(0.5 * (counts / counts.sum() - probabilities).abs().sum())


def within_standard_errors(samples: Tensor, mean: Tensor, variance: Tensor, errors: float) -> bool:
    """Whether mean and variance of independent `samples: (n, d)` are what they should be."""
    centred = (samples - mean).double()
    spread = centred.square()
    mean_error = centred.mean(0).abs() / (centred.std(0) / len(samples) ** 0.5)
    variance_error = (spread.mean(0) - variance).abs() / (spread.std(0) / len(samples) ** 0.5)
    return bool((mean_error < errors).all() and (variance_error < errors).all())
