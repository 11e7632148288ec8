"""Estimates of integrals under an energy, each with its standard error and which bound it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Energy, Number, align_left, check_energy, in_dtype_of, over_event
from ebrl.energies.evaluating import evaluating
from ebrl.estimators.annealing import Annealing
from ebrl.generators import check_generator
from ebrl.kernels import Kernel, Proposal
from ebrl.kernels.checks import check_not_broadcast
from ebrl.ranges import check_at_least, check_positive
from ebrl.spaces import Space

Bound = Literal["lower", "upper", "none"]


class SoftValue(NamedTuple):
    """The soft value estimated from M candidates."""

    log_weights: Tensor  # (*batch, M), log w = -E/T - log q
    energy: Tensor  # (*batch, M)
    temperature: Number  # or (*batch,)

    @property
    def value(self) -> Tensor:
        """`T log (1/M) Σ w`, `(*batch,)`: a lower bound of `T log Z` in expectation."""
        candidates = self.log_weights.shape[-1]
        if candidates == 1:
            return self.temperature * self.log_weights.squeeze(-1)
        return self.temperature * (torch.logsumexp(self.log_weights, -1) - math.log(candidates))

    @property
    def weights(self) -> Tensor:
        """`w / Σ w`, `(*batch, M)`."""
        return torch.softmax(self.log_weights, -1)

    @property
    def entropy(self) -> Tensor:
        """The entropy of `exp(-E/T)/Z`, `(*batch,)`, self-normalised: consistent, no bound."""
        possible = self.energy.masked_fill(self.weights == 0, 0)  # 0 times infinity is 0 here
        return (self.value + (self.weights * possible).sum(-1)) / self.temperature

    @property
    def effective_sample_size(self) -> Tensor:
        """`1 / Σ (w / Σ w)²`, `(*batch,)`, between 1 and M."""
        return 1 / self.weights.square().sum(-1)

    @property
    def standard_error(self) -> Tensor:
        """Standard error of the value, `(*batch,)`, by the delta method; infinite for M = 1."""
        candidates = self.log_weights.shape[-1]
        if candidates == 1:
            return torch.full_like(self.value, math.inf)
        # Var(log mean w) ≈ Var(w) / (M mean(w)²), with the unbiased sample variance.
        excess = (self.weights.square().sum(-1) - 1 / candidates).clamp_min(0)
        return self.temperature * (excess * candidates / (candidates - 1)).sqrt()


def soft_value(energy: Tensor, log_density: Tensor, temperature: Number) -> SoftValue:
    """Estimate `T log ∫ exp(-E(x)/T) dx` from candidates `x_m ~ q`.

    `exp(value/T)` is unbiased, so the value is a lower bound in expectation, tighter with every
    candidate (Burda, Grosse and Salakhutdinov 2016, theorem 1). With one candidate it is
    `-E - T log q`, the soft value of SAC. A high effective sample size does not prove coverage: the
    weights do not show a mode that the proposal misses.

    Args:
        energy: `E(x_m)`, `(*batch, M)`.
        log_density: The normalised `log q(x_m)`, `(*batch, M)`.
        temperature: T, a number or one for each of the leading batch axes, `(*leading batch,)`.
    """
    temperature = align_left(temperature, energy.ndim - 1)  # (*batch,), axes of 1 are shared
    log_weights = -energy / over_event(temperature, 1) - log_density
    return SoftValue(log_weights, energy, temperature)


class Estimate(NamedTuple):
    """An estimate, its standard error, and which bound it is in expectation."""

    value: Tensor  # 0-dim, float64
    standard_error: Tensor  # 0-dim, float64
    bound: Bound


class Bounds(NamedTuple):
    """Estimates of one log normalizer from below, from above and from both sides.

    The upper bound holds for exact samples of the model. For samples from a long run of the chains
    it holds as far as that run converged: modes that neither the reference nor the run found are
    missing from every number here.
    """

    lower: Estimate
    upper: Estimate
    bridge: Estimate
    model_samples: Literal["given", "long run"]
    acceptance: Tensor  # (rungs - 2,), mean acceptance on the way up

    def interval(self, errors: float = 2.0) -> tuple[float, float]:
        """Return the lower bound minus `errors` standard errors, and the upper bound plus as many.

        With two, estimated from 16 runs, the interval covers the truth about 94 times in 100.
        """
        low = self.lower.value - errors * self.lower.standard_error
        return float(low), float(self.upper.value + errors * self.upper.standard_error)


def log_normalizer(
    energy: Energy,
    *,
    generator: torch.Generator,
    space: Space | None = None,
    reference: Proposal | None = None,
    samples: Tensor | None = None,
    temperature: float = 1.0,
    kernel: Kernel | None = None,
    ladder: int | Sequence[float] = 100,
    runs: int = 16,
    chains: int = 64,
    steps: int = 1,
    step_size: float = 0.1,
    long_run: int = 100,
) -> Bounds:
    """Bound `log ∫ exp(-E(x)/T) dx` from both sides (Grosse, Ghahramani and Adams 2015).

    The lower bound is annealed importance sampling (Neal 2001) from the reference. The upper bound
    is the same path run backwards from samples of the target.

    Args:
        space: Where x may be; unbounded by default.
        reference: Where the chains start; by default the reference distribution of the space.
        samples: Exact draws of the target, `(n, *event)`, divided among the runs. By default these
            are the annealed chains, resampled by weight and moved by `long_run` steps.
        kernel: Reversible; by default HMC, or Gibbs with gradients where x is discrete.
        ladder: Number of rungs, or the shares of the target in the path's energy, from 0 to 1.
        runs: Independent runs, at least 2, whose spread gives the standard errors.
        steps: Kernel steps of a chain on each rung.
        step_size: Initial step size, which a pilot run adapts to each rung.
        long_run: Steps that move the resampled chains where no samples are given.
    """
    check_at_least(2, runs=runs)
    check_at_least(1, chains=chains)
    if samples is not None:
        check_is_sample(energy, samples)
        if len(samples) < runs:
            raise ValueError(f"expected at least {runs} samples, one a run, got {len(samples)}")
    path = Annealing(
        energy, space=space, reference=reference, kernel=kernel, temperature=temperature,
        ladder=ladder, steps=steps, step_size=step_size,
    )  # fmt: skip
    path.fit_step_sizes(chains, generator)
    up = path.up((runs, chains), generator)
    if samples is None:
        start = path.long_run(up, long_run, generator)
    else:
        start = samples[: len(samples) // runs * runs].unflatten(0, (runs, -1))
    down = path.down(start, generator)
    below, above = log_mean_exp(up.log_weights), log_mean_exp(down.log_weights)
    return Bounds(
        lower=Estimate(*below, "lower"),
        upper=Estimate(-above[0], above[1], "upper"),
        bridge=bridge(up.log_weights, -down.log_weights),
        model_samples="long run" if samples is None else "given",
        acceptance=up.acceptance,
    )


def check_is_sample(energy: Energy, x: Tensor) -> None:
    """Raise `ValueError` for draws that are not `(n, *event)`, such as a trace."""
    if x.ndim != energy.event_ndim + 1:
        raise ValueError(
            f"expected draws of shape (n, *event) with {energy.event_ndim} event axes, got "
            f"{tuple(x.shape)}: of a trace pass trace.x.flatten(0, 1)"
        )


def importance(
    energy: Energy,
    proposal: Proposal,
    candidates: int,
    *,
    generator: torch.Generator,
    temperature: float = 1.0,
) -> Estimate:
    """Estimate the log normalizer of `exp(-E/T)` from `candidates` draws of the proposal.

    A lower bound in expectation. Its standard error is blind to what the proposal misses, and
    infinite for one candidate.
    """
    check_at_least(1, candidates=candidates)
    check_positive(temperature=temperature)
    check_energy(energy)
    check_generator(generator)
    with evaluating(energy), torch.no_grad():
        x = in_dtype_of(energy, proposal.sample((candidates,), generator))
        check_not_broadcast(energy, x)
        log_weights = -energy(x).double() / temperature - proposal.log_density(x).double()
    return Estimate(*log_mean_exp(log_weights.unsqueeze(-1)), "lower")


def bridge(forward: Tensor, backward: Tensor) -> Estimate:
    """Estimate log Z from log weights of both directions (Bennett 1976; Meng and Wong 1996).

    It is consistent, has the least variance among such estimates, and is not a bound. The standard
    error comes from the spread of the runs.

    Args:
        forward: `log f/q` of points drawn from the normalised q, or of paths up, `(runs, n)`.
        backward: `log f/q` of points drawn from f/Z, or of paths down, `(runs, m)`.
    """
    forward, backward = forward.double(), backward.double()
    pooled = _bennett(forward.flatten(), backward.flatten())
    by_run = _bennett(forward, backward)
    return Estimate(pooled, by_run.std() / len(by_run) ** 0.5, "none")


def _bennett(forward: Tensor, backward: Tensor) -> Tensor:
    """Solve `Σ_forward s(t) = Σ_backward s(-t)`, s logistic, `t = log w - c + log m/n`, for c."""
    shift = math.log(backward.shape[-1] / forward.shape[-1])
    both = torch.cat([forward, backward], -1)
    finite = both.isfinite()
    # Beyond every weight by this much, one side's sum is negligible beside the other's.
    slack = 50 + abs(shift)
    low = torch.where(finite, both, math.inf).amin(-1) - slack
    high = torch.where(finite, both, -math.inf).amax(-1) + slack
    for _ in range(80):  # to the last digit of a double
        c = (low + high) / 2
        offset = (shift - c).unsqueeze(-1)
        excess = torch.sigmoid(forward + offset).sum(-1) - torch.sigmoid(-backward - offset).sum(-1)
        low, high = torch.where(excess > 0, c, low), torch.where(excess > 0, high, c)
    return (low + high) / 2


def entropy(
    energy: Energy, samples: Tensor, log_normalizer: Estimate, *, temperature: float = 1.0
) -> Estimate:
    """Estimate the entropy of `exp(-E/T)/Z`, in nats, from independent samples of it.

    `log Z + mean E/T`, which is the same bound as the log normalizer. At least two samples.
    """
    _check_estimate(log_normalizer)
    with evaluating(energy), torch.no_grad():
        values = energy(samples).double().flatten() / temperature
    check_at_least(2, samples=len(values))
    error = (values.var() / len(values) + log_normalizer.standard_error.square()).sqrt()
    return Estimate(log_normalizer.value + values.mean(), error, log_normalizer.bound)


def _check_estimate(log_normalizer: object) -> None:
    """Raise `TypeError` for what is no estimate, such as the bounds that hold three."""
    if not isinstance(log_normalizer, Estimate):
        raise TypeError(
            f"expected an Estimate of the log normalizer, got {type(log_normalizer).__name__}: "
            "of bounds pass .upper, .lower or .bridge"
        )


def bits_per_dimension(
    energy: Energy,
    x: Tensor,
    log_normalizer: Estimate,
    *,
    temperature: float = 1.0,
    bin_width: float = 1.0,
) -> Estimate:
    """Estimate the mean code length of data `x: (n, *event)`, in bits for each coordinate.

    It is the same bound as the log normalizer. A lower bound flatters the model: quote the upper.
    `bin_width` is the width of the uniform noise that made discrete data continuous: 1/256 for
    bytes scaled to [0, 1].
    """
    nats = entropy(energy, x, log_normalizer, temperature=temperature)
    unit = math.prod(x.shape[x.ndim - energy.event_ndim :]) * math.log(2)
    value = nats.value / unit - math.log2(bin_width)
    return Estimate(value, nats.standard_error / unit, nats.bound)


def log_mean_exp(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log of the mean of `exp(log_weights)`, `(runs, n)`, and its standard error.

    The error is by the delta method, from the means of the runs: only runs need be independent.
    """
    runs, n = log_weights.shape
    means = torch.logsumexp(log_weights.double(), -1) - math.log(n)  # (runs,), their logs
    value = torch.logsumexp(means, -1) - math.log(runs)
    if runs == 1:
        return value, torch.full_like(value, math.inf)
    return value, (means - value).exp().std() / math.sqrt(runs)
