"""Walls, weights of modes and log normalizers: part of `calibration.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from calibration_moments import Metered, Section
from calibration_peers import CLAMPED, INSTALLED, MISSING, ebmkit_bounds, installed
from torch import Tensor

from ebrl import estimators
from ebrl.energies import RBM, FunctionEnergy, Gaussian, GaussianMixture
from ebrl.envs import total_variation, total_variation_floor
from ebrl.estimators import exact_log_normalizer
from ebrl.kernels import (
    HMC,
    MALA,
    NUTS,
    ULA,
    Cycle,
    Gibbs,
    IndependenceMetropolis,
    IteratedSIR,
    Kernel,
    Tempered,
)
from ebrl.sampling import Sampler
from ebrl.spaces import Binary, Box, Unbounded, Walls

BOUNDED, BINS = 50_000, 40  # chains and bins
WEIGHED = 20_000  # chains


class Boxed(NamedTuple):
    """A Gaussian with independent coordinates, cut off by the walls of a box."""

    name: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def energy(self) -> Gaussian:
        return Gaussian(torch.tensor(self.mean), torch.tensor(self.deviation), len(self.mean))

    def box(self, walls: Walls) -> Box:
        return Box(torch.tensor(self.low), torch.tensor(self.high), walls)

    def sample(self, n: int, temperature: float, generator: torch.Generator) -> Tensor:
        """Draw `(n, dimension)` from the law at a temperature, exactly."""
        mean, deviation = torch.tensor(self.mean), temperature**0.5 * torch.tensor(self.deviation)
        low, high = (
            torch.special.ndtr((torch.tensor(bound) - mean) / deviation)
            for bound in (self.low, self.high)
        )
        uniform = torch.rand(n, len(mean), generator=generator)
        x = mean + deviation * torch.special.ndtri(torch.lerp(low, high, uniform))
        return x.clamp(torch.tensor(self.low) + 1e-6, torch.tensor(self.high) - 1e-6)

    def probabilities(self, axis: int, temperature: float) -> np.ndarray:
        """Return the mass of each of the equal bins of one coordinate."""
        edges = torch.linspace(self.low[axis], self.high[axis], BINS + 1, dtype=torch.float64)
        deviation = temperature**0.5 * self.deviation[axis]
        mass = torch.special.ndtr((edges - self.mean[axis]) / deviation).diff()
        return (mass / mass.sum()).numpy()


LINE = Boxed("N(.8, .4²) on [-1, 1]", (0.8,), (0.4,), (-1.0,), (1.0,))
PLANE = Boxed(
    "N(.8, .4²) on [-1, 1] by N(2.5, 1²) on [0, 3]", (0.8, 2.5), (0.4, 1.0), (-1.0, 0.0), (1.0, 3.0)
)


class Walled(NamedTuple):
    """What is left of a law between walls."""

    target: str
    temperature: float
    sampler: str
    walls: str
    step_size: float
    total_variation: float  # of the coordinate that is furthest off
    floor: float  # a perfect sampler's, of that coordinate
    on_bound: float  # share of draws with a coordinate on a bound
    acceptance: float | None


def walled(
    x: Tensor,
    target: Boxed,
    temperature: float,
    sampler: str,
    walls: str,
    step_size: float,
    acceptance: float | None = None,
) -> Walled:
    distances = []
    for axis in range(x.shape[1]):
        exact = target.probabilities(axis, temperature)
        reach = (target.low[axis], target.high[axis])
        counts = np.histogram(x[:, axis].double().numpy(), BINS, reach)[0]
        assert counts.sum() == len(x)
        distance = total_variation(counts / len(x), exact)
        distances.append((distance, total_variation_floor(exact, len(x))))
    worst, floor = max(distances)
    low, high = torch.tensor(target.low), torch.tensor(target.high)
    on_bound = float(((x <= low) | (x >= high)).any(-1).double().mean())
    setting = (target.name, temperature, sampler, walls, step_size)
    return Walled(*setting, worst, floor, on_bound, acceptance)


def between_walls(
    target: Boxed,
    kernel: Kernel,
    walls: Walls,
    step_size: float,
    seeds: Sequence[int],
    temperature: float = 1.0,
) -> Walled:
    """Run from exact draws: a kernel that does not leave their law as it is leads them away."""
    steps = 400 if step_size < 0.02 else 60 if isinstance(kernel, HMC) else 150
    sampler = Sampler(
        kernel, target.box(walls), steps=steps, step_size=step_size, temperature=temperature
    )
    energy, count = target.energy(), BOUNDED // len(seeds)
    runs = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        starts = target.sample(count, temperature, generator)
        runs.append(sampler.sample(energy, starts, generator=generator))
    x = torch.cat([run.x for run in runs])
    acceptance = torch.cat([run.info.acceptance for run in runs]).mean().item()
    name = type(kernel).__name__
    return walled(x, target, temperature, name, walls, step_size, acceptance)


def bounded(seeds: Sequence[int]) -> Section:
    """Each way to treat walls, and other libraries' clamps."""
    rows = []
    for size in (0.05, 0.005):
        rows += [between_walls(LINE, ULA(), walls, size, seeds) for walls in get_args(Walls)]
        for peer in installed(CLAMPED):
            starts = LINE.sample(BOUNDED, 1.0, torch.Generator().manual_seed(0))
            steps = 400 if size < 0.02 else 150
            x = peer.run(LINE.energy(), starts, size, steps, seeds[0]).x
            rows.append(walled(x, LINE, 1.0, f"{peer.library} ULA", "clamp", size))
    for walls in ("reject", "reflect", "tanh"):
        for kernel, size in ((MALA(), 0.05), (MALA(), 0.5), (HMC(5), 0.2)):
            rows.append(between_walls(LINE, kernel, walls, size, seeds))
        rows.append(between_walls(LINE, MALA(), walls, 0.1, seeds, 0.3))
        rows.append(between_walls(PLANE, MALA(), walls, 0.1, seeds))
    rows.append(between_walls(LINE, MALA(), "project", 0.05, seeds))
    rows.sort(key=lambda row: (row.target != LINE.name, -row.temperature))
    lines = [
        f"| {row.target} | {row.temperature:g} | {row.sampler} | {row.walls} | {row.step_size:g} "
        f"| {'' if row.acceptance is None else f'{row.acceptance:.2f}'} "
        f"| {row.total_variation:.3f} | {row.floor:.3f} | {row.on_bound:.3f} |"
        for row in rows
    ]
    text = [
        f"{BOUNDED:,} chains from exact draws; total variation on {BINS} bins of the coordinate "
        "that is furthest off, and what a perfect sampler shows. Projected and clamped chains, and "
        "ULA's everywhere, are biased.",
        "",
        "| target | T | sampler | walls | step size | acceptance | total variation | floor "
        "| on a bound |",
        "|---|---|---|---|---|---|---|---|---|",
        *lines,
    ]
    return Section("walls", "\n".join(text), rows)


class Weight(NamedTuple):
    """The share of one mode that a sampler recovers."""

    sampler: str
    start: str
    truth: float
    share: float
    share_se: float
    spent: float  # energy evaluations a draw: a value is 1, a value with its gradient 3


class Mover(NamedTuple):
    """A kernel with its step size and length of run."""

    name: str
    kernel: Kernel
    step_size: float
    steps: int


WIDE = Gaussian(0.0, 2.5, 2)
MOVERS = [
    Mover("independence Metropolis", IndependenceMetropolis(WIDE), 1.0, 400),
    Mover("iterated SIR, 16", IteratedSIR(WIDE, 16), 1.0, 25),
    Mover("cycle of iterated SIR, 16, and MALA", Cycle([IteratedSIR(WIDE, 16), MALA()]), 0.08, 20),
    Mover("tempered MALA, T to 16 T", Tempered(MALA(), [1, 2, 4, 8, 16]), 0.08, 600),
    Mover("MALA", MALA(), 0.08, 600),
    Mover("HMC, 10 leapfrog steps", HMC(10), 0.2, 60),
    Mover("NUTS", NUTS(6), 0.25, 20),
]


def recovered(mover: Mover, share: float, start: str, seeds: Sequence[int]) -> Weight:
    target = GaussianMixture([[2.0, 0.0], [-2.0, 0.0]], 0.4, [share, 1 - share])
    energy, right = Metered(target), []
    sampler = Sampler(mover.kernel, Unbounded(2), steps=mover.steps, step_size=mover.step_size)
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(WEIGHED, 2, generator=generator)
        if start == "the lighter mode":
            x = torch.tensor([-2.0, 0.0]) + 0.4 * x
        right.append(sampler.sample(energy, x, generator=generator).x[:, 0] > 0)
    found = torch.cat(right).double().mean().item()
    count = WEIGHED * len(seeds)
    spent = (energy.values + 3 * energy.gradients) / count
    error = (share * (1 - share) / count) ** 0.5  # of a perfect sampler
    return Weight(mover.name, start, share, found, error, spent)


def weights(seeds: Sequence[int]) -> Section:
    """Unequal modes, from starts that say nothing of their weights."""
    lines, rows = [], []
    for mover in MOVERS:
        for start in ("N(0, 1)", "the lighter mode"):
            both = [recovered(mover, share, start, seeds) for share in (0.7, 0.8)]
            cells = " | ".join(f"{row.share:.4f} ± {row.share_se:.4f}" for row in both)
            recovers = all(abs(row.share - row.truth) <= 0.01 for row in both)
            lines.append(
                f"| {mover.name} | {start} | {cells} | {'yes' if recovers else '**no**'} "
                f"| {both[0].spent:,.0f} |"
            )
            rows += both
    text = [
        "The heavier of two modes, N((±2, 0), .4²) in the plane, by "
        f"{WEIGHED * len(seeds):,} chains; ± is a perfect sampler's standard error. MALA, HMC and "
        "NUTS alone cannot recover weights: no gradient connects the modes, and chains keep the "
        "shares of the basins that they began in. Importance moves propose from N(0, 2.5²).",
        "",
        "| sampler | from | .7 | .8 | within .01 | energy evaluations a draw |",
        "|---|---|---|---|---|---|",
        *lines,
    ]
    return Section("weights", "\n".join(text), rows)


class Bracket(NamedTuple):
    """Bounds of one log normalizer."""

    target: str
    estimator: str
    seed: int
    truth: float
    lower: float
    lower_se: float
    upper: float
    upper_se: float
    bridge: float | None
    bridge_se: float | None
    spent: float  # energy evaluations in thousands: a value is 1, a value with its gradient 3

    @property
    def interval(self) -> tuple[float, float]:
        """The bounds, each two standard errors out."""
        return self.lower - 2 * self.lower_se, self.upper + 2 * self.upper_se


MIXTURE = GaussianMixture([[2.0, 0.0], [-2.0, 1.0]], 0.5, [0.7, 0.3])
TRUTH = MIXTURE.log_normalizer  # of the mixture without its normalizer
RUNS, RUNGS, CHAINS = 16, 100, 800


def mixture(x: Tensor) -> Tensor:
    return MIXTURE(x) - TRUTH


def ours(name: str, estimator: str, energy: Any, truth: float, seed: int, **how: Any) -> Bracket:
    metered = Metered(energy)
    stream = torch.Generator().manual_seed(seed)
    bounds = estimators.log_normalizer(metered, generator=stream, **how)
    figures = [float(number) for each in bounds[:3] for number in each[:2]]
    spent = (metered.values + 3 * metered.gradients) / 1000
    return Bracket(name, estimator, seed, truth, *figures, spent)


def of_mixture(seed: int) -> list[Bracket]:
    name, samples = (
        "mixture in the plane",
        MIXTURE.sample((RUNS * CHAINS,), torch.Generator().manual_seed(100 + seed)),
    )
    energy = FunctionEnergy(mixture)
    how = {"space": Unbounded(2), "kernel": MALA(), "runs": RUNS, "chains": CHAINS, "ladder": RUNGS}
    rows = [
        ours(name, "ebrl, exact samples", energy, TRUTH, seed, samples=samples, **how),
        ours(name, "ebrl, long run", energy, TRUTH, seed, long_run=50, **how),
    ]
    if "ebmkit" in INSTALLED:
        metered = Metered(energy)
        below, above = ebmkit_bounds(metered, samples, RUNGS, seed)
        spent = (metered.values + 3 * metered.gradients) / 1000
        rows.append(
            Bracket(
                name, "ebmkit, AIS and reverse AIS, exact samples", seed, TRUTH, *below, *above,
                None, None, spent,
            )
        )  # fmt: skip
    return rows


def of_rbm(seed: int) -> list[Bracket]:
    torch.manual_seed(0)  # the machine itself is the same for all seeds
    energy, space = RBM(12, 6), Binary(12)
    with torch.no_grad():
        for parameter in energy.parameters():
            parameter.normal_(0, 1.0)
    truth = float(exact_log_normalizer(energy, space))
    name, how = "RBM, 12 visible, 6 hidden", {"space": space, "ladder": 60, "long_run": 50}
    return [
        ours(name, "ebrl, Gibbs with gradients", energy, truth, seed, steps=3, **how),
        ours(name, "ebrl, Gibbs", energy, truth, seed, kernel=Gibbs(), steps=6, **how),
    ]


def normalizers(seeds: Sequence[int]) -> Section:
    """Both bounds of log Z, of a mixture and of a machine small enough to enumerate."""
    brackets: list[Callable[[int], list[Bracket]]] = [of_mixture, of_rbm]
    rows = [row for each in brackets for seed in seeds for row in each(seed)]
    lines = []
    for row in rows:
        low, high = row.interval
        holds = "yes" if low <= row.truth <= high else "**no**"
        bridge = "" if row.bridge is None else f"{row.bridge:.4f} ± {row.bridge_se:.4f}"
        lines.append(
            f"| {row.target} | {row.estimator} | {row.truth:.4f} | {row.lower:.4f} ± "
            f"{row.lower_se:.4f} | {row.upper:.4f} ± {row.upper_se:.4f} | {bridge} "
            f"| {high - low:.3f} | {holds} | {row.spent:,.0f} |"
        )
    text = [
        "Annealed importance sampling up and down. The interval reaches two standard errors past "
        "both bounds; evaluations are in thousands. ebmkit's two come in one standard error each, "
        "of its chains.",
        *(f"{name} is not installed: left out." for name in MISSING if name == "ebmkit"),
        "",
        "| target | estimator | truth | lower | upper | bridge | width | holds the truth "
        "| evaluations |",
        "|---|---|---|---|---|---|---|---|---|",
        *lines,
    ]
    return Section("log normalizers", "\n".join(text), rows)
