"""Moments of kernels' draws, on targets whose moments are known: part of `calibration.py`."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from calibration_peers import LEAPFROGS, MISSING, PEERS, Peer, installed
from torch import Tensor

from ebrl.energies import Banana, DoubleWell, Energy, Funnel, Gaussian, Ring, Target
from ebrl.kernels import (
    GHMC,
    HMC,
    MALA,
    NUTS,
    ULA,
    Cycle,
    IndependenceMetropolis,
    IteratedSIR,
    Kernel,
    Tempered,
    Underdamped,
)
from ebrl.sampling import Sampler

CHAINS = 20_000
TEMPERATURES = (1.0, 0.5)
LANGEVIN = ("ULA", "MALA")  # kinds whose step size is a time, not a length
SIZES = {"small": 0.2, "middling": 0.8, "large": 1.6}  # leapfrog steps in lengths of the target


class Section(NamedTuple):
    """One table: its text, and every figure of it."""

    name: str
    text: str
    rows: list[Any]


class Metered(Energy):
    """An energy that counts the points at which it is asked for a value alone or a gradient."""

    def __init__(self, energy: Energy):
        super().__init__()
        self.energy, self.values, self.gradients = energy, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        points = x[..., 0].numel()
        if x.requires_grad:  # by a library that differentiates what it is given
            self.gradients += points
        else:
            self.values += points
        return self.energy(x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.gradients += x[..., 0].numel()
        return self.energy.value_and_gradient(x)


class Case(NamedTuple):
    """A target with moments at every temperature."""

    name: str
    target: Any  # Target with `tempered`
    length: float  # on which its energy varies
    patience: int = 1  # how many times longer than elsewhere chains take to forget their start


SCALES = Case(
    "unequal scales",
    Gaussian(torch.tensor([1.0, 0.0, -1.0]), torch.tensor([0.5, 1.0, 2.0]), 3),
    0.5,
)
CASES = [
    SCALES,
    Case("banana", Banana(0.5), 0.5, patience=3),
    Case("funnel", Funnel(3, 0.7), 0.7),
    Case("double well", DoubleWell(1.0, 0.3, 2), 0.5, patience=4),
    Case("ring", Ring(1.5, 0.4), 0.4),
]


class Entry(NamedTuple):
    """A kernel of ours, its step size on a target, and for how many steps it runs."""

    name: str
    kernel: Callable[[Target], Kernel]  # given the target at the temperature
    step_size: Callable[[Case], float]
    steps: int  # from exact draws; 0 where the chains are more than what is drawn exactly
    long: int  # from elsewhere, times the target's patience; 0 where it would take too long
    exact: bool = True


def langevin(factor: float) -> Callable[[Case], float]:
    return lambda case: (factor * case.length) ** 2 / 2


def leapfrog(factor: float) -> Callable[[Case], float]:
    return lambda case: factor * case.length


def standard(step_size: float) -> Callable[[Case], float]:
    """Return a step size for coordinates that a mass has standardised."""
    return lambda case: step_size


def hot(target: Any) -> Target:
    """Return the proposal of importance moves: the target at twice the temperature."""
    return target.tempered(2.0)


def _at_each_size() -> list[Entry]:
    found = []
    for name, factor in SIZES.items():
        far = 400 if name == "middling" else 0
        found.append(Entry(f"MALA, {name}", lambda _: MALA(), langevin(factor), 20, far))
    for name, factor in SIZES.items():
        far = 120 if name == "middling" else 0
        found.append(Entry(f"HMC, {name}", lambda _: HMC(LEAPFROGS), leapfrog(factor), 20, far))
    for name, factor in SIZES.items():
        far = 20 if name == "middling" else 0
        found.append(Entry(f"NUTS, {name}", lambda _: NUTS(6), leapfrog(factor), 4, far))
    return found


ENTRIES = [
    *_at_each_size(),
    Entry("MALA, preconditioned", lambda t: MALA(t.variance), standard(0.15), 20, 0),
    Entry("HMC, mass", lambda t: HMC(LEAPFROGS, 1 / t.variance), standard(0.3), 20, 0),
    Entry("GHMC", lambda _: GHMC(LEAPFROGS), leapfrog(0.8), 20, 120),
    Entry("independence Metropolis", lambda t: IndependenceMetropolis(hot(t)), standard(1), 20, 80),
    Entry("iterated SIR, 8", lambda t: IteratedSIR(hot(t), 8), standard(1), 20, 40),
    Entry(
        "cycle of iterated SIR and MALA",
        lambda t: Cycle([IteratedSIR(hot(t), 8), MALA()]),
        langevin(0.8),
        20,
        40,
    ),
    Entry("tempered MALA, T and 2T", lambda _: Tempered(MALA(), [1, 2]), langevin(0.8), 0, 250),
    Entry("*ULA, middling*", lambda _: ULA(), langevin(0.8), 20, 0, exact=False),
    Entry("*underdamped, middling*", lambda _: Underdamped(), leapfrog(0.8), 20, 0, exact=False),
]


class Row(NamedTuple):
    """How far the moments of one sampler's draws are from the target's."""

    sampler: str
    exact: bool  # whether it should leave the target's law alone
    target: str
    temperature: float
    start: str  # "exact draws" or "elsewhere"
    step_size: float | None
    acceptance: float | None
    error: float  # the largest of the moments' errors, in standard errors
    moments: int
    gradients: float  # a draw
    values: float  # a draw, besides


def standard_errors(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Return the errors of mean, variances and covariances of independent `x: (n, d)`.

    In standard errors, `(d (d + 3) / 2,)`; of targets whose coordinates are uncorrelated.
    """
    centred = (x - mean).double()
    left, right = torch.triu_indices(x.shape[1], x.shape[1])
    products = centred[:, left] * centred[:, right] - torch.diag(variance)[left, right]
    features = torch.cat([centred, products], 1)
    return features.mean(0).abs() / (features.std(0) / len(x) ** 0.5)


def stream(*names: object) -> torch.Generator:
    """Return a generator of its own for each row, so that errors of rows are independent."""
    return torch.Generator().manual_seed(zlib.crc32(repr(names).encode()))


def starts(case: Case, temperature: float, start: str, generator: torch.Generator) -> Tensor:
    """Return exact draws, or a small cloud around (1, …, 1)."""
    target = case.target.tempered(temperature)
    if start == "exact draws":
        return target.sample((CHAINS,), generator)
    return 1 + 0.3 * torch.randn(CHAINS, len(target.mean), generator=generator)


def measured(entry: Entry, case: Case, temperature: float, start: str, seeds: Sequence[int]) -> Row:
    target, energy = case.target.tempered(temperature), Metered(case.target)
    steps = entry.steps if start == "exact draws" else entry.long * case.patience
    sampler = Sampler(
        entry.kernel(target),
        steps=steps,
        step_size=entry.step_size(case),
        temperature=temperature,
    )
    draws, acceptances = [], []
    for seed in seeds:
        generator = stream(entry.name, case.name, temperature, start, seed)
        x, _, info = sampler.sample(
            energy, starts(case, temperature, start, generator), generator=generator
        )
        draws.append(x)
        acceptances.append(info.acceptance.mean())
    errors = standard_errors(torch.cat(draws), target.mean, target.variance)
    chains = CHAINS * len(seeds)
    return Row(
        entry.name, entry.exact, case.name, temperature, start, float(entry.step_size(case)),
        float(torch.stack(acceptances).mean()), float(errors.max()), len(errors),
        energy.gradients / chains, energy.values / chains,
    )  # fmt: skip


def perfect(case: Case, temperature: float, seeds: Sequence[int]) -> Row:
    target = case.target.tempered(temperature)
    streams = [stream("perfect", case.name, temperature, seed) for seed in seeds]
    x = torch.cat([target.sample((CHAINS,), each) for each in streams])
    errors = standard_errors(x, target.mean, target.variance)
    return Row(
        "exact draws", True, case.name, temperature, "exact draws", None, None,
        float(errors.max()), len(errors), 0.0, 0.0,
    )  # fmt: skip


def largest_of_normals(count: int) -> float:
    """Return the median of the largest `|z|` of so many standard normals."""
    tail = 1 - 0.5 ** (1 / count)
    return float(torch.special.ndtri(torch.tensor(1 - tail / 2, dtype=torch.float64)))


def verdict(rows: list[Row]) -> str:
    """Say how the worst of all moments of exact kernels compares with chance."""
    exact = [row for row in rows if row.exact]
    worst, count = max(exact, key=lambda row: row.error), sum(row.moments for row in exact)
    return (
        f"Of {count:,} moments of samplers that should be exact the worst is off by "
        f"{worst.error:.1f} standard errors ({worst.sampler}, {worst.target}, T = "
        f"{worst.temperature:g}, from {worst.start}); of so many independent normals the median "
        f"worst is {largest_of_normals(count):.1f}."
    )


def _range(numbers: list[float], form: str) -> str:
    low, high = (format(number, form) for number in (min(numbers), max(numbers)))
    return low if low == high else f"{low} to {high}"


def _line(rows: list[Row]) -> str:
    first = rows[0]
    errors = []
    for case in CASES:
        own = [row for row in rows if row.target == case.name]
        errors.append(" / ".join(f"{row.error:.1f}" for row in own))
    accepted = [row.acceptance for row in rows if row.acceptance is not None]
    acceptance = _range(accepted, ".2f") if accepted else ""
    gradients, values = ([getattr(row, name) for row in rows] for name in ("gradients", "values"))
    spent = f"{_range(gradients, ',.0f')} | {_range(values, ',.0f')}"
    return f"| {first.sampler} | {first.start} | {' | '.join(errors)} | {acceptance} | {spent} |"


def _starts(entry: Entry) -> list[str]:
    lengths = {"exact draws": entry.steps, "elsewhere": entry.long}
    return [start for start, steps in lengths.items() if steps]


def kernels(seeds: Sequence[int]) -> Section:
    """Every kernel of ours on every target."""
    groups = [[perfect(case, t, seeds) for case in CASES for t in TEMPERATURES]]
    for entry in ENTRIES:
        for start in _starts(entry):
            own = [measured(entry, case, t, start, seeds) for case in CASES for t in TEMPERATURES]
            groups.append(own)
    rows = [row for group in groups for row in group]
    names = " | ".join(case.name for case in CASES)
    head = f"| kernel | from | {names} | acceptance | gradients a draw | values a draw |"
    text = [
        "Largest error of any mean, variance or covariance, in standard errors of "
        f"{CHAINS * len(seeds):,} independent chains, at T = 1 / T = 0.5. In italics: kernels that "
        "are biased. Hot replicas cannot be drawn exactly with the cold ones: tempering starts "
        "elsewhere.",
        "",
        head,
        "|---" * (head.count("|") - 1) + "|",
        *map(_line, groups),
        "",
        verdict(rows),
    ]
    return Section("kernels", "\n".join(text), rows)


def compared(peer: Peer, temperature: float, start: str, seeds: Sequence[int]) -> Row:
    """Return the row of another library's sampler, which moves as ours of that kind does.

    It is given the target at the temperature; with `E/T` for E, step sizes are T times as large,
    lengths of leapfrog steps √T times.
    """
    entry = next(entry for entry in ENTRIES if f"{peer.kind}, middling" in entry.name)
    target = SCALES.target.tempered(temperature)
    energy, longer = Metered(target), temperature if peer.kind in LANGEVIN else temperature**0.5
    step_size = longer * entry.step_size(SCALES)
    steps = entry.steps if start == "exact draws" else entry.long
    runs = []
    for seed in seeds:
        generator = stream(peer.library, peer.kind, temperature, start, seed)
        x = starts(SCALES, temperature, start, generator)
        runs.append(peer.run(energy, x, step_size, steps, seed))
    errors = standard_errors(torch.cat([run.x for run in runs]), target.mean, target.variance)
    reported = runs[0].gradients
    chains = CHAINS * len(seeds)
    return Row(
        f"{peer.library} {peer.kind}", entry.exact, SCALES.name, temperature, start, step_size,
        None, float(errors.max()), len(errors),
        energy.gradients / chains if reported is None else reported, energy.values / chains,
    )  # fmt: skip


def peers(seeds: Sequence[int]) -> Section:
    """Other libraries' samplers on the Gaussian of unequal scales, beside ours."""
    rows: list[Row] = []
    lines = []
    for kind in ("ULA", "MALA", "HMC", "NUTS"):
        entry = next(entry for entry in ENTRIES if f"{kind}, middling" in entry.name)
        for start in _starts(entry):
            ours = [measured(entry, SCALES, t, start, seeds) for t in TEMPERATURES]
            rows += [row._replace(sampler=f"ebrl {kind}") for row in ours]
            for peer in installed([peer for peer in PEERS if peer.kind == kind]):
                rows += [compared(peer, t, start, seeds) for t in TEMPERATURES]
    for first, second in zip(rows[::2], rows[1::2], strict=True):  # both temperatures
        errors = f"{first.error:.1f} / {second.error:.1f}"
        spent = f"{first.gradients:,.0f} | {first.values:,.0f}"
        lines.append(f"| {first.sampler} | {first.start} | {errors} | {spent} |")
    text = [
        f"The same for {SCALES.name} and middling steps, the same in all libraries. blackjax "
        "counts its own gradients and takes each value with one.",
        *(f"{name} is not installed: left out." for name in MISSING),
        "",
        "| sampler | from | largest error | gradients a draw | values a draw |",
        "|---|---|---|---|---|",
        *lines,
    ]
    return Section("peers", "\n".join(text), rows)
