"""Diagnostics: how chains mix, how far draws are from a distribution, how an energy drifts.

Traces are `(steps, chains, *event)`, as `Sampler.trace` returns them. Diagnostics of a trace have a
value for each coordinate, `(*event,)`, in float64.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Energy, check_energy
from ebrl.energies.evaluating import evaluating
from ebrl.estimators.integrals import Estimate, check_is_sample
from ebrl.ranges import check_at_least
from ebrl.sampling import ChainInfo

# ---- acceptance -----------------------------------------------------------------------------


class Acceptance(NamedTuple):
    """Acceptance of the moves of all chains, 0-dim each."""

    mean: Tensor
    lowest: Tensor  # of any chain
    stuck: Tensor  # share of the chains that accept less than one move in a hundred
    diverged: Tensor  # proposals that were NaN, -inf or infinitely far


def acceptance(info: ChainInfo) -> Acceptance:
    """Summarise the report of a run."""
    rate = info.acceptance
    stuck = (rate < 0.01).to(rate.dtype).mean()
    return Acceptance(rate.mean(), rate.min(), stuck, info.diverged.sum())


# ---- mixing ---------------------------------------------------------------------------------


def effective_sample_size(trace: Tensor, kind: Literal["bulk", "tail", "mean"] = "bulk") -> Tensor:
    """Return how many independent draws the trace is worth (Vehtari et al. 2021, section 4).

    Args:
        trace: `(steps, chains, *event)`, at least 8 steps.
        kind: "bulk" for the rank-normalised draws; "tail" for the smaller of the 5 % and the 95 %
            quantile; "mean" for the draws themselves, for the standard error of their mean.

    Returns:
        `(*event,)` in float64; NaN where the trace does not move or is not finite.
    """
    halves = _halves(trace)
    if kind == "tail":
        levels = torch.tensor([0.05, 0.95], dtype=torch.float64, device=trace.device)
        flat = halves.flatten(0, 1)
        both = [(halves <= _quantile(flat, level)).double() for level in levels]
        size = torch.minimum(*map(_effective_sample_size, both))
        return torch.where(flat.isfinite().all(0), size, math.nan)
    if kind == "mean":
        return _effective_sample_size(halves)
    if kind != "bulk":
        raise ValueError(f"expected kind 'bulk', 'tail' or 'mean', got {kind!r}")
    return _effective_sample_size(_normal_scores(halves))


def split_r_hat(trace: Tensor) -> Tensor:
    """Return rank-normalised split R-hat, the larger of those of location and spread.

    Above 1.01 the halves of the chains disagree on the distribution (Vehtari et al. 2021,
    section 4). Chains that all miss the same mode agree. Shapes: see `effective_sample_size`.
    """
    halves = _halves(trace)
    folded = (halves - _quantile(halves.flatten(0, 1), 0.5)).abs()
    # Draws at one distance from the median have no spread to compare: location decides.
    return torch.fmax(_r_hat(_normal_scores(halves)), _r_hat(_normal_scores(folded)))


def _halves(trace: Tensor) -> Tensor:
    """Return `(steps / 2, 2 chains, *event)` in float64."""
    if trace.ndim < 2 or trace.shape[0] < 8:
        raise ValueError(
            "expected a trace of shape (steps, chains, *event) with at least 8 steps, "
            f"got {tuple(trace.shape)}"
        )
    half = trace.shape[0] // 2
    return torch.cat([trace[:half], trace[-half:]], 1).double()


def _quantile(flat: Tensor, level: float | Tensor) -> Tensor:
    """Return the quantile along the first axis, of inputs too large for `torch.quantile`."""
    ordered = flat.sort(0).values
    place = float(level) * (len(flat) - 1)
    below = math.floor(place)
    return torch.lerp(ordered[below], ordered[min(below + 1, len(flat) - 1)], place - below)


def _normal_scores(draws: Tensor) -> Tensor:
    """Return `Φ⁻¹((rank - 3/8) / (n + 1/4))` over all draws; ties share their mean rank."""
    flat = draws.reshape(draws.shape[0] * draws.shape[1], -1).T.contiguous()  # (coordinates, n)
    ordered = flat.sort(-1).values
    first = torch.searchsorted(ordered, flat)
    last = torch.searchsorted(ordered, flat, right=True)
    rank = (first + last + 1) / 2
    scores = torch.special.ndtri((rank.double() - 0.375) / (flat.shape[1] + 0.25))
    scores = torch.where(flat.isfinite().all(-1, keepdim=True), scores, math.nan)
    return scores.T.reshape(draws.shape)


def _variances(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variance within chains and the estimate from within and between them."""
    steps = draws.shape[0]
    within = draws.var(0).mean(0)
    between = draws.mean(0).var(0)
    return within, within * (steps - 1) / steps + between


def _r_hat(draws: Tensor) -> Tensor:
    within, total = _variances(draws)
    return (total / within).sqrt()


def _effective_sample_size(draws: Tensor) -> Tensor:
    """Return `n / τ` with the initial monotone sequence of Geyer (1992), as Stan has it."""
    steps, chains = draws.shape[:2]
    within, total = _variances(draws)
    centred = draws - draws.mean(0)
    spectrum = torch.fft.rfft(centred, 2 * steps, dim=0)
    covariance = torch.fft.irfft(spectrum.abs().square(), 2 * steps, dim=0)[:steps] / steps
    correlation = 1 - (within - covariance.mean(1)) / total
    correlation[0] = 1
    pairs = correlation[: steps // 2 * 2].unflatten(0, (-1, 2)).sum(1)
    positive = (pairs > 0).cumprod(0)
    summed = (pairs.cummin(0).values * positive).sum(0)
    # The first pair left out still contributes its even half, which antithetic chains need.
    end = positive.sum(0, keepdim=True).clamp(max=len(pairs) - 1).long()
    half = correlation[: steps // 2 * 2 : 2].gather(0, end).squeeze(0).clamp_min(0)
    size = steps * chains
    time = (2 * summed - 1 + half).clamp_min(1 / math.log10(size))
    return torch.where(within > 0, size / time, math.nan)


# ---- distance -------------------------------------------------------------------------------


def kernel_stein_discrepancy(
    energy: Energy, x: Tensor, *, temperature: float = 1.0, bandwidth: float | None = None
) -> Estimate:
    """Estimate the squared kernel Stein discrepancy of draws `x: (n, *event)` from `exp(-E/T)`.

    The U-statistic (Liu, Lee and Jordan 2016) with the inverse multiquadric kernel
    `(c² + |x - y|²)^(-1/2)` (Gorham and Mackey 2017). It needs no normalizer, and therefore hardly
    sees how mass is shared between distant modes. It may be negative. Memory grows as n².

    At least 4 draws are needed. `bandwidth` is c, by default the median distance, which makes the
    estimate of 10 draws .01 too large: it is unbiased for a bandwidth that is given.
    """
    check_energy(energy)
    check_is_sample(energy, x)
    with evaluating(energy):
        score = -energy.value_and_gradient(x)[1].flatten(1).double() / temperature
    x = _rows(x)
    square = torch.cdist(x, x).square()
    c = _median_distance(square) if bandwidth is None else bandwidth
    base = c**2 + square
    # With k = base^(-1/2): ∇_y k = (x - y) base^(-3/2), and ∇_x k is minus that.
    along = score @ x.mT
    towards = along.diagonal().unsqueeze(1) - along  # s(x) · (x - y)
    pull = (towards + towards.mT) * base**-1.5
    curvature = x.shape[1] * base**-1.5 - 3 * square * base**-2.5
    return _u_statistic((score @ score.mT) * base**-0.5 + pull + curvature)


def maximum_mean_discrepancy(x: Tensor, y: Tensor, *, bandwidth: float | None = None) -> Estimate:
    """Estimate the squared maximum mean discrepancy of two samples.

    The U-statistic of Gretton et al. (2012, lemma 6 with n = m) with the kernel
    `exp(-|x - y|² / 2h²)`; it may be negative. Memory grows as n². x and y are both `(n, *event)`,
    at least 4 draws; of a trace pass `trace.x.flatten(0, 1)`. `bandwidth` is h, by default the
    median distance in both samples together.
    """
    if x.shape != y.shape:
        raise ValueError(
            f"expected as many draws of the same shape, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    both = torch.cat([_rows(x), _rows(y)])
    square = torch.cdist(both, both).square()
    h = _median_distance(square) if bandwidth is None else bandwidth
    k, n = (-square / (2 * h**2)).exp(), len(x)
    return _u_statistic(k[:n, :n] + k[n:, n:] - k[:n, n:] - k[n:, :n])


def _rows(x: Tensor) -> Tensor:
    """Return the draws as vectors in float64, `(n, coordinates)`."""
    if x.ndim < 2 or len(x) < 4:
        raise ValueError(f"expected at least 4 draws, (n, *event), got {tuple(x.shape)}")
    return x.detach().flatten(1).double()


def _median_distance(square: Tensor) -> Tensor:
    above = torch.triu_indices(len(square), len(square), 1, device=square.device)
    return square[above[0], above[1]].median().sqrt().clamp_min(1e-12)


def _u_statistic(h: Tensor) -> Estimate:
    """Return the mean of `h: (n, n)` off the diagonal, with its standard error.

    `Var = 4 ζ₁ / n + 2 ζ₂ / n²`: ζ₁ is the variance of the rows' means, 0 for equal distributions.
    """
    n = len(h)
    h = h - torch.diag(h.diagonal())
    rows = h.sum(1) / (n - 1)
    value = rows.mean()
    second = (h.square().sum() / (n * (n - 1)) - value.square()).clamp_min(0)
    first = (rows.var() - second / n).clamp_min(0)
    return Estimate(value, (4 * first / n + 2 * second / n**2).sqrt(), "none")


# ---- training -------------------------------------------------------------------------------


@torch.no_grad()
def energy_gap(
    energy: Energy, data: Tensor, samples: Tensor, *, temperature: float = 1.0
) -> Estimate:
    """Estimate `(mean E(samples) - mean E(data)) / T`, which is near 0 for a fitted energy.

    If it is positive, the samples are less likely than the data: the chains lag behind a training
    that may diverge. If negative, they found regions that the energy prefers to the data. `data`
    is `(n, *event)` and `samples` `(m, *event)`.
    """
    check_energy(energy)
    with evaluating(energy):
        of_samples = energy(samples).double().flatten() / temperature
        of_data = energy(data).double().flatten() / temperature
    check_at_least(2, samples=len(of_samples), data=len(of_data))
    error = (of_samples.var() / len(of_samples) + of_data.var() / len(of_data)).sqrt()
    return Estimate(of_samples.mean() - of_data.mean(), error, "none")
