"""More targets: each `-log p` of a density with known moments and exact draws."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ebrl.energies.energy import Number, log_probabilities
from ebrl.energies.quadrature import Quadrature
from ebrl.energies.target import Target, in_one_dtype, standard_normal
from ebrl.generators import device_of
from ebrl.ranges import check_at_least, check_positive

_SQRT_2 = math.sqrt(2)
_SQRT_2_PI = math.sqrt(2 * math.pi)


class GaussianMixture(Target):
    """`-log Σ_k w_k exp(-|x - μ_k|² / 2s²)`, as one batched program.

    `means` is `(components, dimension)`, and s the `deviation`; the weights are normalised to sum
    to 1 and equal by default.
    """

    means: Tensor  # (components, dimension)
    log_weights: Tensor  # (components,)

    def __init__(
        self,
        means: Sequence[Sequence[float]] | Tensor,
        deviation: float,
        weights: Sequence[float] | Tensor | None = None,
    ):
        super().__init__()
        check_positive(deviation=deviation)
        (means,) = in_one_dtype(means)
        weights = torch.ones(len(means)) if weights is None else weights
        self.deviation = deviation
        self.register_buffer("means", means.clone())
        self.register_buffer("log_weights", log_probabilities(weights, len(means)).to(means))
        self.log_normalizer = means.shape[-1] * math.log(deviation * _SQRT_2_PI)

    @property
    def mean(self) -> Tensor:
        """The mean, `(dimension,)`."""
        return self.log_weights.exp() @ self.means

    @property
    def variance(self) -> Tensor:
        spread = (self.means - self.mean).square()
        return self.log_weights.exp() @ spread + self.deviation**2

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # Chains are the last axis, so that the inner loops of torch are long.
        columns = (1,) * (x.ndim - 1)
        means = self.means.mT.unflatten(1, (-1, *columns))  # (dimension, components, 1, …)
        apart = x.movedim(-1, 0).contiguous().unsqueeze(1) - means
        log_weights = self.log_weights.unflatten(0, (-1, *columns))
        log_joint = torch.add(log_weights, apart.square().sum(0), alpha=-0.5 / self.deviation**2)
        highest = log_joint.detach().amax(0)
        # Shares below e^-80 of the largest vanish; as denormal numbers they would be slow.
        shares = (log_joint - highest).clamp(min=-80).exp()  # (components, *batch)
        total = shares.sum(0)
        gradient = (apart * shares).sum(1) / (total * self.deviation**2)
        return self.log_normalizer - highest - total.log(), gradient.movedim(0, -1)

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        count = math.prod(batch)
        if count == 0:
            return self.means.new_empty(*batch, self.means.shape[-1])
        chosen = torch.multinomial(
            self.log_weights.exp(), count, replacement=True, generator=generator
        )
        noise = standard_normal((count, self.means.shape[-1]), generator, self.means.dtype)
        return (self.means[chosen] + self.deviation * noise).view(*batch, -1)


class Funnel(Target):
    """Neal's funnel (2003, section 8): `x_0 ~ N(mean, deviation²)`, `x_i ~ N(0, scale² e^{x_0})`.

    No step size suits both the narrow neck and the wide mouth. At least 2 dimensions are needed.
    """

    def __init__(
        self, dimension: int = 2, deviation: float = 3.0, *, mean: float = 0.0, scale: float = 1.0
    ):
        super().__init__()
        check_positive(deviation=deviation, scale=scale)
        check_at_least(2, dimension=dimension)
        self.dimension, self.deviation, self.centre, self.scale = dimension, deviation, mean, scale
        self.log_normalizer = dimension * math.log(_SQRT_2_PI) + math.log(deviation)
        self.log_normalizer += (dimension - 1) * math.log(scale)

    @property
    def mean(self) -> Tensor:
        """The mean, `(dimension,)`."""
        return torch.tensor([self.centre] + [0.0] * (self.dimension - 1))

    @property
    def variance(self) -> Tensor:
        mouth = self.scale**2 * math.exp(self.centre + self.deviation**2 / 2)
        return torch.tensor([self.deviation**2] + [mouth] * (self.dimension - 1))

    def tempered(self, temperature: float) -> Funnel:
        # Integrating the other n coordinates out of exp(-E/T) leaves a factor
        # e^{(n/2)(1 - 1/T) x_0}, which moves the mean.
        shift = (self.dimension - 1) / 2 * (temperature - 1) * self.deviation**2
        root = temperature**0.5
        deviation, mean, scale = root * self.deviation, self.centre + shift, root * self.scale
        return Funnel(self.dimension, deviation, mean=mean, scale=scale)

    def forward(self, x: Tensor) -> Tensor:
        along, across = x[..., 0], x[..., 1:]
        standard = (along - self.centre) / self.deviation
        precision = torch.exp(-along) / self.scale**2
        squares = standard.square() + precision * across.square().sum(-1)
        return (squares + (self.dimension - 1) * along) / 2 + self.log_normalizer

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        noise = standard_normal((*batch, self.dimension), generator)
        along = self.centre + self.deviation * noise[..., :1]
        return torch.cat([along, self.scale * (along / 2).exp() * noise[..., 1:]], -1)


class Banana(Target):
    """`x_0² / 2s² + (x_1 - curvature x_0²)² / 2w²` with s the deviation and w the width.

    A Gaussian bent along a parabola (Haario, Saksman and Tamminen 1999).
    """

    def __init__(self, curvature: float = 1.0, deviation: float = 1.0, width: float = 0.5):
        super().__init__()
        check_positive(deviation=deviation, width=width)
        self.curvature, self.deviation, self.width = curvature, deviation, width
        self.log_normalizer = math.log(2 * math.pi * deviation * width)

    @property
    def mean(self) -> Tensor:
        """The mean, `(dimension,)`."""
        return torch.tensor([0.0, self.curvature * self.deviation**2])

    @property
    def variance(self) -> Tensor:
        bent = 2 * self.curvature**2 * self.deviation**4
        return torch.tensor([self.deviation**2, self.width**2 + bent])

    def tempered(self, temperature: float) -> Banana:
        root = temperature**0.5
        return Banana(self.curvature, root * self.deviation, root * self.width)

    def forward(self, x: Tensor) -> Tensor:
        along = x[..., 0] / self.deviation
        across = (x[..., 1] - self.curvature * x[..., 0].square()) / self.width
        return (along.square() + across.square()) / 2 + self.log_normalizer

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        noise = standard_normal((*batch, 2), generator)
        along = self.deviation * noise[..., 0]
        across = self.curvature * along.square() + self.width * noise[..., 1]
        return torch.stack([along, across], -1)


class DoubleWell(Target):
    """`Σ_i barrier (x_i² - 1)² - tilt x_i`: 2^dimension wells, of equal depth without tilt.

    Normalizer and moments are computed by quadrature; draws use inverse transform sampling.
    """

    def __init__(self, barrier: float = 4.0, tilt: float = 0.0, dimension: int = 1):
        super().__init__()
        check_positive(barrier=barrier)
        self.barrier, self.tilt, self.dimension = barrier, tilt, dimension
        # Beyond `reach` the energy is 40 above its minimum: the density has fallen to e^-40.
        reach = math.sqrt(1 + math.sqrt((40 + 4 * abs(tilt)) / barrier)) + abs(tilt) / barrier
        self.quadrature = Quadrature.over(
            -reach, reach, lambda x: -barrier * (x * x - 1).square() + tilt * x
        )
        self.log_normalizer = dimension * self.quadrature.log_normalizer

    @property
    def mean(self) -> Tensor:
        """The mean, `(dimension,)`."""
        return torch.full((self.dimension,), self.quadrature.moment(lambda x: x))

    @property
    def variance(self) -> Tensor:
        mean = self.quadrature.moment(lambda x: x)
        return torch.full((self.dimension,), self.quadrature.moment(lambda x: (x - mean).square()))

    def tempered(self, temperature: float) -> DoubleWell:
        return DoubleWell(self.barrier / temperature, self.tilt / temperature, self.dimension)

    def forward(self, x: Tensor) -> Tensor:
        wells = self.barrier * (x.square() - 1).square() - self.tilt * x
        return wells.sum(-1) + self.log_normalizer

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self.quadrature.draw((*batch, self.dimension), generator)


class Ring(Target):
    """`(|x| - radius)² / 2s²` in the plane, with s the deviation.

    Normalizer and moments are computed by quadrature; radii use inverse transform sampling.
    """

    def __init__(self, radius: float = 2.0, deviation: float = 0.2):
        super().__init__()
        check_positive(radius=radius, deviation=deviation)
        self.radius, self.deviation = radius, deviation
        self.quadrature = Quadrature.over(
            max(0.0, radius - 9 * deviation),
            radius + 9 * deviation,
            lambda r: r.log() - ((r - radius) / deviation).square() / 2,
        )
        self.log_normalizer = math.log(2 * math.pi) + self.quadrature.log_normalizer

    @property
    def mean(self) -> Tensor:
        """The mean, `(dimension,)`."""
        return torch.zeros(2)

    @property
    def variance(self) -> Tensor:
        return torch.full((2,), self.quadrature.moment(torch.square) / 2)

    def tempered(self, temperature: float) -> Ring:
        return Ring(self.radius, temperature**0.5 * self.deviation)

    def forward(self, x: Tensor) -> Tensor:
        standard = (x.norm(dim=-1) - self.radius) / self.deviation
        return standard.square() / 2 + self.log_normalizer

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        radius = self.quadrature.draw(batch, generator)
        angle = 2 * math.pi * torch.rand(batch, generator=generator, device=device_of(generator))
        return radius.unsqueeze(-1) * torch.stack([angle.cos(), angle.sin()], -1)


class TruncatedGaussian(Target):
    """`Σ_i (x_i - mean_i)² / 2s_i²` on the box `low <= x <= high`, +inf outside.

    Mean, deviation and bounds are numbers or `(dimension,)`. Bounds out of order, and a box without
    mass in double precision, are a `ValueError`.
    """

    centre: Tensor  # (dimension,)
    deviation: Tensor  # (dimension,)
    low: Tensor  # (dimension,)
    high: Tensor  # (dimension,)

    def __init__(
        self, mean: Number, deviation: Number, low: Number, high: Number, dimension: int = 1
    ):
        super().__init__()
        given = (mean, deviation, low, high)
        fields = [
            torch.as_tensor(number, dtype=torch.float64).expand(dimension) for number in given
        ]
        centre, spread, left, right = fields
        if not (spread > 0).all() or not (left < right).all():
            raise ValueError(
                "expected a positive deviation and low < high in every dimension, "
                f"got {deviation=}, {low=}, {high=}"
            )
        # Both ends are measured in the lower tail, where the normal's mass does not round to 1.
        flip = torch.where(left + right > 2 * centre, -1.0, 1.0).double()
        ends = (flip * torch.stack([left - centre, right - centre])).sort(0).values / spread
        mass = torch.erfc(-ends / _SQRT_2) / 2
        inside = mass[1] - mass[0]
        if not (inside > 0).all():
            raise ValueError(
                f"expected a box with some of the Gaussian's mass, got {inside.tolist()}"
            )
        mean, variance = _standard_moments(ends, inside)
        self._moments = (centre + flip * spread * mean, spread**2 * variance)
        self._tail, self._flip = mass, flip
        self.log_normalizer = float((spread * inside * _SQRT_2_PI).log().sum())
        dtype = in_one_dtype(*given)[0].dtype
        for name, field in zip(("centre", "deviation", "low", "high"), fields, strict=True):
            self.register_buffer(name, field.to(dtype))

    @property
    def mean(self) -> Tensor:
        """The mean, `(dimension,)`."""
        return self._moments[0].to(self.centre)

    @property
    def variance(self) -> Tensor:
        return self._moments[1].to(self.centre)

    def tempered(self, temperature: float) -> TruncatedGaussian:
        spread = temperature**0.5 * self.deviation
        return TruncatedGaussian(self.centre, spread, self.low, self.high, len(self.centre))

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value, and the gradient of the Gaussian, outside the box, too."""
        standard = (x - self.centre) / self.deviation
        value = standard.square().sum(-1) / 2 + self.log_normalizer
        inside = ((x >= self.low) & (x <= self.high)).all(-1)
        return torch.where(inside, value, math.inf), standard / self.deviation

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        device = device_of(generator)
        low, high = self._tail.to(device)
        # In float32 one number in 2^24 is 0, which without a lower bound is a draw of -infinity.
        uniform = low.new_empty(*batch, len(low)).uniform_(generator=generator)
        standard = torch.special.ndtri(low + (high - low) * uniform)
        x = self.centre + self._flip.to(device) * self.deviation * standard
        return x.to(self.centre.dtype).clamp(self.low, self.high)


def _standard_moments(ends: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of a standard normal between `ends: (2, dimension)`.

    `inside` is its mass there. In a narrow box the closed form cancels, and quadrature does not.
    """
    density = (-ends.square() / 2).exp() / _SQRT_2_PI / inside
    shift = density[0] - density[1]
    edges = (ends * density).nan_to_num(nan=0.0)  # at an infinite end there is none
    variance = 1 + edges[0] - edges[1] - shift**2
    nodes, weights = map(torch.as_tensor, np.polynomial.legendre.leggauss(20))
    middle, half = ends.mean(0).unsqueeze(-1), (ends[1] - ends[0]).unsqueeze(-1) / 2
    away = half * nodes  # (dimension, nodes), from the middle
    share = weights * (-away * (2 * middle + away) / 2).exp()
    share = share / share.sum(-1, keepdim=True)
    mean_away = (share * away).sum(-1)
    narrow = ends[1] - ends[0] < 1
    return (
        torch.where(narrow, middle.squeeze(-1) + mean_away, shift),
        torch.where(narrow, (share * (away - mean_away.unsqueeze(-1)).square()).sum(-1), variance),
    )
