"""Spaces that a smooth map takes to R^d: half-lines, the simplex, the torus, affine coordinates."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from ebrl.constants import Constant
from ebrl.energies import CorrelatedGaussian, Number
from ebrl.generators import device_of
from ebrl.ranges import check_at_least, check_positive
from ebrl.spaces.space import Space, coarser


class HalfLine(Space):
    """Vectors with `x > low`, by `x = low + exp(u)`; the reference is `low` plus exponential.

    `low` is one bound for all coordinates, or `(dimension,)`. A coordinate with the bound -inf is
    free, with a standard normal reference: `HalfLine(3, torch.tensor([-inf, -inf, 0.0]))` holds a
    mean, an effect and a scale.
    """

    def __init__(self, dimension: int, low: Number = 0.0):
        low = torch.as_tensor(low, dtype=torch.get_default_dtype())
        if low.shape not in ((), (dimension,)) or not (low < math.inf).all():
            raise ValueError(
                f"expected bounds below infinity for {dimension} coordinates, got {low}"
            )
        low = low.expand(dimension)
        bounded = low > -math.inf
        self.dimension, self.low = dimension, Constant(low)
        self.all_bounded = bool(bounded.all())
        self.bounded = Constant(bounded.to(low))  # 1 where there is a bound
        self.start = Constant(torch.where(bounded, low, 0.0))

    def to_free(self, x: Tensor) -> Tensor:
        away = (x - self.start.to(x)).clamp_min(torch.finfo(x.dtype).tiny)
        return torch.where(self.bounded.to(x) > 0, away.log(), x)

    def from_free(self, free: Tensor) -> Tensor:
        bounded = self.bounded.to(free)
        # exp of what is free could be infinite, and then spoil the gradient.
        away = (bounded * free).exp()
        return torch.where(bounded > 0, self.start.to(free) + away, free)

    def log_det_jacobian(self, free: Tensor) -> Tensor:
        return (self.bounded.to(free) * free).sum(-1)

    def contains(self, x: Tensor) -> Tensor:
        rounded = x.to(coarser(x.dtype, self.low.tensor.dtype))
        return ((rounded >= self.low.to(rounded)) & x.isfinite()).all(-1)

    def reference(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        device = device_of(generator)
        away = torch.empty(*batch, self.dimension, device=device).exponential_(generator=generator)
        bounded, start = self.bounded.on(device), self.start.on(device)
        if self.all_bounded:
            return start + away
        normal = torch.randn(away.shape, generator=generator, device=device)
        return torch.where(bounded > 0, start + away, normal)

    def reference_log_density(self, x: Tensor) -> Tensor:
        normal = -0.5 * (x.square() + math.log(2 * math.pi))
        each = torch.where(self.bounded.to(x) > 0, self.start.to(x) - x, normal)
        return torch.where(self.contains(x), each.sum(-1), -math.inf)


class Simplex(Space):
    """Probabilities of `categories`, `x: (*batch, categories)`, by stick-breaking (Stan, 10.7).

    It has `categories - 1` free coordinates, which are 0 where all probabilities are equal.
    Densities are those of the first `categories - 1` probabilities; the reference is uniform.
    """

    def __init__(self, categories: int):
        check_at_least(2, categories=categories)
        self.categories = categories
        # With the shift, u = 0 breaks 1/k off the stick that k categories share.
        self.shift = Constant(torch.arange(categories - 1, 0, -1).double().log())

    def to_free(self, x: Tensor) -> Tensor:
        x = x.clamp_min(torch.finfo(x.dtype).tiny)
        rest = x.flip(-1).cumsum(-1).flip(-1)  # (*batch, categories), what is left to share
        return x[..., :-1].log() - rest[..., 1:].log() + self.shift.to(x)

    def from_free(self, free: Tensor) -> Tensor:
        sticks = free - self.shift.to(free)
        left = pad(logsigmoid(-sticks).cumsum(-1), (1, 0))  # log of what is left
        return (pad(logsigmoid(sticks), (0, 1)) + left).exp()

    def log_det_jacobian(self, free: Tensor) -> Tensor:
        sticks = free - self.shift.to(free)
        left = pad(logsigmoid(-sticks).cumsum(-1), (1, 0))[..., :-1]
        return (logsigmoid(sticks) + logsigmoid(-sticks) + left).sum(-1)

    def contains(self, x: Tensor) -> Tensor:
        return (x >= 0).all(-1) & ((x.sum(-1) - 1).abs() < 1e-4)

    def reference(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        x = torch.empty(*batch, self.categories, device=device_of(generator))
        x.exponential_(generator=generator)
        return x / x.sum(-1, keepdim=True)

    def reference_log_density(self, x: Tensor) -> Tensor:
        uniform = math.lgamma(self.categories)
        return torch.where(self.contains(x), uniform, -math.inf).to(x.dtype)


class Torus(Space):
    """Angles in [0, period), whose free coordinates are unwrapped; the reference is uniform.

    The energy must be a periodic function of each of the `dimension` angles.
    """

    wrapped = True

    def __init__(self, dimension: int, period: float = 2 * math.pi):
        check_positive(period=period)
        self.dimension, self.period = dimension, period

    def from_free(self, free: Tensor) -> Tensor:
        return torch.remainder(free, self.period)

    def free_variance(self, free: Tensor) -> Tensor:
        turn = free * (2 * math.pi / self.period)
        middle = torch.atan2(turn.sin().mean(0), turn.cos().mean(0))  # the circular mean
        away = torch.remainder(turn - middle + math.pi, 2 * math.pi) - math.pi
        return away.square().mean(0) * (self.period / (2 * math.pi)) ** 2

    def contains(self, x: Tensor) -> Tensor:
        # The remainder of a tiny negative number rounds to the period itself.
        return ((x >= 0) & (x <= self.period)).all(-1)

    def reference(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        device = device_of(generator)
        uniform = torch.rand(*batch, self.dimension, generator=generator, device=device)
        return self.period * uniform

    def reference_log_density(self, x: Tensor) -> Tensor:
        uniform = -self.dimension * math.log(self.period)
        return torch.where(self.contains(x), uniform, -math.inf).to(x.dtype)


class Affine(Space):
    """R^d in coordinates of another mean and covariance: `x = mean + L u` with `L Lᵀ = covariance`.

    It is a dense preconditioner for every kernel: HMC in u is HMC in x with the inverse covariance
    as its mass. `mean` is `(d,)` and `covariance` `(d, d)`; the reference is their Gaussian.
    """

    def __init__(self, mean: Tensor, covariance: Tensor):
        gaussian = CorrelatedGaussian(mean, covariance)
        self.mean, self.factor = Constant(gaussian.mean), Constant(gaussian.factor)
        self.log_determinant = float(gaussian.factor.diagonal().log().sum())

    def to_free(self, x: Tensor) -> Tensor:
        factor = self.factor.to(x)
        away = (x - self.mean.to(x)).unsqueeze(-1)
        return torch.linalg.solve_triangular(factor, away, upper=False).squeeze(-1)

    def from_free(self, free: Tensor) -> Tensor:
        return self.mean.to(free) + free @ self.factor.to(free).mT

    def log_det_jacobian(self, free: Tensor) -> Tensor:
        return free.new_full(free.shape[:-1], self.log_determinant)

    def contains(self, x: Tensor) -> Tensor:
        return x.isfinite().all(-1)

    def reference(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        mean = self.mean.on(device_of(generator))
        noise = mean.new_empty(*batch, len(mean)).normal_(generator=generator)
        return self.from_free(noise)

    def reference_log_density(self, x: Tensor) -> Tensor:
        free = self.to_free(x)
        normal = -(0.5 * free.square() + 0.5 * math.log(2 * math.pi)).sum(-1)
        return normal - self.log_determinant
