"""The action sampler alone beside published ones at equal numbers of energy evaluations.

    python benchmarks/action_samplers.py --out benchmarks/results/action_samplers

Prints one table; with --out writes it as OUT.md and every figure as OUT.json. The target on
[-1, 1]^d is .7 N(-.5, s²) + .3 N(.5, s²) in all coordinates jointly, s = .1 in 1 dimension and .15
in 6 and 17, `E = -log density`. An energy costs 1, an energy with its gradient 3; the cost of each
sampler is counted. Every row has 20,000 draws; ± is one standard error. Total variation is that of
the first coordinate on 40 bins; its floor is a perfect sampler's. The mixtures are trained on the
energy beforehand, MALA's step size is tuned beforehand: neither is in a draw's budget.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ebrl.agents.proposal import TanhMixture
from ebrl.energies import Energy, Gaussian, Mixture, first_order
from ebrl.envs import total_variation, total_variation_floor
from ebrl.estimators import soft_value
from ebrl.kernels import MALA, ULA, IteratedSIR, Kernel
from ebrl.kernels.draws import pick, take
from ebrl.sampling import DualAveraging, Sampler
from ebrl.spaces import Box, Walls, log_tanh_jacobian

DRAWS, BINS, BUDGETS = 20_000, 40, (16, 32, 64)
CHUNK = 1_000  # draws made at a time, so that candidates stay in the cache
WEIGHTS, MODE = (0.7, 0.3), 0.5
MOVES = {16: 1, 32: 2, 64: 4}  # of MALA after SIR, in a budget
CHAIN_STEPS = 3  # of iterated SIR, in any budget
ULA_STEP_SIZE = 0.005
UPDATES, BATCH, LEARNING_RATE = 1_000, 32, 1e-2  # of the trained proposals
TRAININGS = 5  # of the proposal, from different starts: the first one's draws are moved too
IBC_CHAINS = 512


class Metered(Energy):
    """An energy that counts what it is asked: 1 a value, 3 a value with its gradient."""

    def __init__(self, energy: Energy):
        super().__init__()
        self.energy, self.spent = energy, 0

    def forward(self, x: Tensor) -> Tensor:
        self.spent += x[..., 0].numel()
        return self.energy(x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.spent += 3 * x[..., 0].numel()
        return self.energy.value_and_gradient(x)


class Target(NamedTuple):
    """Two Gaussians on a box, sampled from `exp(-E/T)`; T other than 1 in 1 dimension only."""

    dimension: int
    deviation: float
    temperature: float = 1.0

    def __str__(self) -> str:
        return f"{self.dimension}-dimensional, T = {self.temperature:g}"

    def energy(self) -> Energy:
        left, right = (Gaussian(m, self.deviation, self.dimension) for m in (-MODE, MODE))
        return Mixture([left, right], WEIGHTS)

    def box(self, walls: Walls) -> Box:
        return Box(-torch.ones(self.dimension), torch.ones(self.dimension), walls)

    def first_coordinate(self) -> np.ndarray:
        """Return the probabilities of the bins, by quadrature with 200 points in each.

        The two modes lose equal shares to the walls, so that any coordinate of the target in d
        dimensions has the law of the target in one.
        """
        cells = 200 * BINS
        points = -1 + (2 * torch.arange(cells, dtype=torch.float64) + 1) / cells
        energy = self._replace(dimension=1).energy()(points.unsqueeze(-1))
        return torch.softmax(-energy / self.temperature, 0).view(BINS, -1).sum(1).numpy()


TARGETS = [Target(1, 0.1), Target(1, 0.1, 0.5), Target(6, 0.15), Target(17, 0.15)]


class Task(NamedTuple):
    """A number of draws to make of a target, with its energy and a random stream."""

    target: Target
    energy: Metered
    stream: torch.Generator
    draws: int = CHUNK

    def starts(self) -> Tensor:
        return self.target.box("reject").reference((self.draws,), self.stream)

    def sampler(self, kernel: Kernel, walls: Walls, steps: int, step_size: float = 1.0) -> Sampler:
        box, temperature = self.target.box(walls), self.target.temperature
        return Sampler(kernel, box, steps=steps, step_size=step_size, temperature=temperature)


Draw = Callable[[Task], Tensor]


class UniformProposal(NamedTuple):
    """Uniform over the box, in the coordinates of actions."""

    dimension: int
    walls: Walls = "reject"

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return 2 * torch.rand(*batch, self.dimension, generator=generator) - 1

    def log_density(self, x: Tensor) -> Tensor:
        return x.new_full(x.shape[:-1], -self.dimension * math.log(2))


class TrainedProposal(NamedTuple):
    """The agent's mixture, in the coordinates before the squash; plain draws, as when acting."""

    mixture: TanhMixture
    walls: Walls = "tanh"

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        count, dimension = math.prod(batch), self.mixture.mean.shape[-1]
        rows = TanhMixture(*(each.expand(count, *each.shape[1:]) for each in self.mixture[:3]))
        offset = torch.rand(count, 1, generator=generator)
        normal = torch.randn(count, 1, dimension, generator=generator)
        return rows.systematic(offset, normal).reshape(*batch, dimension)

    def log_density(self, free: Tensor) -> Tensor:
        flat = free.reshape(1, -1, free.shape[-1])
        return (self.mixture.log_density(flat) + log_tanh_jacobian(flat).sum(-1)).view(
            free.shape[:-1]
        )


Ours = UniformProposal | TrainedProposal


def trained(target: Target, components: int, trainings: int) -> list[TrainedProposal]:
    """Fit mixtures to the energy by reverse KL, as the agent does, each from its own start.

    Means start at N(0, .5²), deviations at 1 and weights equal, before the squash.
    """
    generator, energy = torch.Generator().manual_seed(components), target.energy()
    shape = (trainings, components, target.dimension)
    mean = (0.5 * torch.randn(shape, generator=generator)).requires_grad_()
    log_deviation = torch.zeros(shape, requires_grad=True)
    logits = torch.zeros(shape[:2], requires_grad=True)
    optimizer = torch.optim.Adam([mean, log_deviation, logits], lr=LEARNING_RATE)
    for _ in range(UPDATES):
        mixtures = TanhMixture(torch.log_softmax(logits, -1), mean, log_deviation)
        rows = TanhMixture(*(each.repeat_interleave(BATCH, 0) for each in mixtures[:3]))
        free = rows.one_each(torch.randn(rows.mean.shape, generator=generator))
        energies = first_order(energy, torch.tanh(free))  # (trainings * BATCH, components)
        free_energies = target.temperature * rows.log_density(free) + energies
        optimizer.zero_grad()
        (rows.log_weights.exp() * free_energies).sum(-1).mean().backward()
        optimizer.step()
    fields = (torch.log_softmax(logits, -1).detach(), mean.detach(), log_deviation.detach())
    rows_of_fields = zip(*(field.split(1) for field in fields), strict=True)
    return [TrainedProposal(TanhMixture(*row)) for row in rows_of_fields]


def adapted_step_size(target: Target) -> float:
    """Tune MALA's step size to an acceptance of .574 on 256 chains of its own, 500 steps."""
    box, adaptation, temperature = target.box("tanh"), DualAveraging(), target.temperature
    tuned = Sampler(MALA(), box, steps=500, temperature=temperature, adaptation=adaptation)
    tuned.sample(target.energy(), n=256, generator=torch.Generator().manual_seed(1))
    return float(tuned.step_size)


def resampled(proposal: Ours, candidates: int, task: Task) -> Tensor:
    """SIR: of `candidates` draws of the proposal take one by its importance, as the agent acts."""
    space, temperature = task.target.box(proposal.walls), task.target.temperature
    free = proposal.sample((task.draws, candidates), task.stream)
    energies = space.free(task.energy, temperature, 1.0)(free)
    weights = soft_value(energies, proposal.log_density(free), temperature).weights
    chosen = pick(weights, torch.rand(task.draws, generator=task.stream))
    return space.from_free(take(free, chosen))


def iterated(proposal: Ours, candidates: int, task: Task) -> Tensor:
    """Iterated SIR from a draw of the proposal, `CHAIN_STEPS` steps."""
    sampler = task.sampler(IteratedSIR(proposal, candidates), proposal.walls, CHAIN_STEPS)
    start = sampler.space.from_free(proposal.sample((task.draws,), task.stream))
    return sampler.sample(task.energy, start, generator=task.stream).x


def metropolis(start: Draw, steps: int, step_size: float, task: Task) -> Tensor:
    """MALA under tanh walls."""
    sampler = task.sampler(MALA(), "tanh", steps, step_size)
    return sampler.sample(task.energy, start(task), generator=task.stream).x


def exact(task: Task) -> Tensor:
    """Draw from the target itself, by rejection; at T the modes are as good as disjoint."""
    target, trials = task.target, 2 * task.draws
    shares = torch.tensor(WEIGHTS) ** (1 / target.temperature)
    right = torch.rand(trials, 1, generator=task.stream) * shares.sum() > shares[0]
    noise = torch.randn(trials, target.dimension, generator=task.stream)
    x = torch.where(right, MODE, -MODE) + target.deviation * target.temperature**0.5 * noise
    return x[(x.abs() <= 1).all(-1)][: task.draws]


def unadjusted(steps: int, task: Task) -> Tensor:
    """ULA under reflecting walls, from uniform starts."""
    sampler = task.sampler(ULA(), "reflect", steps, ULA_STEP_SIZE)
    return sampler.sample(task.energy, task.starts(), generator=task.stream).x


def ibc_chains(task: Task) -> Tensor:
    """IBC's Langevin (Florence et al. 2021; google-research/ibc, `mcmc.py`), as shipped.

    `a - clip(η (∇E/2 + noise))`: the noise is scaled by η and not by its root. η falls from .1 to
    1e-5 with power 2 in 100 iterations; a step is clipped to .1 of half the range.
    """
    x = task.starts()
    for i in range(100):
        step_size = (0.1 - 1e-5) * (1 - i / 99) ** 2 + 1e-5
        gradient = task.energy.value_and_gradient(x)[1] / task.target.temperature
        change = step_size * (0.5 * gradient + torch.randn(x.shape, generator=task.stream))
        x = (x - change.clamp(-0.1, 0.1)).clamp(-1, 1)
    return x


def ibc_policy(task: Task) -> Tensor:
    """IBC's stochastic policy: of 512 chains take one with probability ∝ exp(-E).

    Each draw has 512 of a chunk's chains, chosen at random, and not 512 of its own.
    """
    chains = ibc_chains(task)
    energies = task.energy(chains) / task.target.temperature
    pool = torch.randint(task.draws, (task.draws, IBC_CHAINS), generator=task.stream)
    chosen = pick(torch.softmax(-energies[pool], -1), torch.rand(task.draws, generator=task.stream))
    return chains[take(pool, chosen)]


def unit_gradient(task: Task) -> Tensor:
    """NC-LQL's annealed Langevin (Ki et al. 2026; ku-dmlab/NCLQL), as shipped, w = 500.

    10 noise levels of 2 steps, η = 1e-4 (level / last level)² from 1 to 1e-4. The gradient has
    length 1: no temperature enters. The target's own energy stands for the critic's of all levels.
    """
    x = task.starts()
    for step_size in torch.logspace(0, -4, 10).repeat_interleave(2).tolist():
        gradient = task.energy.value_and_gradient(x)[1]
        down = -gradient / (gradient.norm(dim=-1, keepdim=True) + 1e-8)
        noise = step_size**0.5 * torch.randn(x.shape, generator=task.stream)
        x = (x + 0.5 * step_size * 500 * down + noise).clamp(-1, 1)
    return x


class Mode(NamedTuple):
    """The draws nearest to one mode, over all coordinates; None where there are none."""

    mean: float | None
    mean_se: float | None
    deviation: float | None

    def __str__(self) -> str:
        return "none" if self.mean is None else f"{self.mean:.3f}, {self.deviation:.3f}"


class Row(NamedTuple):
    """What 20,000 draws of one sampler look like; `_se` are standard errors."""

    target: str
    sampler: str
    evaluations: float  # energy evaluations a draw, counted
    total_variation: float
    total_variation_se: float
    floor: float
    left: float
    left_se: float
    left_mode: Mode
    right_mode: Mode
    on_bound: float


def within(x: Tensor) -> Mode:
    if len(x) < 2:
        return Mode(None, None, None)
    standard_error, deviation = x.mean(-1).std() / len(x) ** 0.5, x.var(0).mean().sqrt()
    return Mode(float(x.mean()), float(standard_error), float(deviation))


def measured(x: Tensor, target: Target, sampler: str, spent: float) -> Row:
    """Compare draws with the target; the nearer mode is the one on the same side of 0."""
    exact = target.first_coordinate()
    counts = np.histogram(x[:, 0].numpy(), BINS, (-1, 1))[0]
    bootstrap = np.random.default_rng(0).multinomial(len(x), counts / len(x), size=200)
    spread = np.std([total_variation(each / len(x), exact) for each in bootstrap])
    share = float((is_left := x.sum(-1) < 0).double().mean())
    return Row(
        target=str(target),
        sampler=sampler,
        evaluations=spent,
        total_variation=total_variation(counts / len(x), exact),
        total_variation_se=float(spread),
        floor=total_variation_floor(exact, len(x)),
        left=share,
        left_se=(share * (1 - share) / len(x)) ** 0.5,
        left_mode=within(x[is_left]),
        right_mode=within(x[~is_left]),
        on_bound=float((x.abs() >= 1).any(-1).double().mean()),
    )


def contestants(target: Target, step_size: float) -> dict[str, Draw]:
    """Return what is compared, by name."""
    mixtures, most = trained(target, 4, TRAININGS), BUDGETS[-1]
    draws: dict[str, Draw] = {"exact draws": exact}
    for budget in BUDGETS if target.temperature == 1 else (most,):
        draws |= ours("uniform", UniformProposal(target.dimension), budget, step_size)
        draws |= ours("mixture", mixtures[0], budget, step_size)
        steps = budget // 3 - 1  # the gradient at the start is one more
        draws[f"MALA {steps}"] = partial(metropolis, Task.starts, steps, step_size)
        draws[f"ULA {steps}, reflection"] = partial(unadjusted, steps)
    for i, proposal in enumerate(mixtures[1:], 2):
        draws[f"SIR {most}, mixture, training {i}"] = partial(resampled, proposal, most)
    draws[f"SIR {most}, one Gaussian"] = partial(resampled, trained(target, 1, 1)[0], most)
    draws["unit-gradient Langevin (NC-LQL)"] = unit_gradient
    draws["IBC Langevin, one chain"] = ibc_chains
    draws["IBC Langevin, one of 512 chains"] = ibc_policy
    return draws


def ours(name: str, proposal: Ours, budget: int, step_size: float) -> dict[str, Draw]:
    """Return our samplers over one proposal, each within the budget."""
    moves, each = MOVES[budget], (budget - 1) // CHAIN_STEPS
    fewer = budget - 3 * (moves + 1)
    start = partial(resampled, proposal, fewer)
    return {
        f"SIR {budget}, {name}": partial(resampled, proposal, budget),
        f"SIR {fewer} + MALA {moves}, {name}": partial(metropolis, start, moves, step_size),
        f"iterated SIR {CHAIN_STEPS} x {each}, {name}": partial(iterated, proposal, each),
    }


@torch.no_grad()
def compare(target: Target, name: str, draw: Draw) -> Row:
    task = Task(target, Metered(target.energy()), torch.Generator().manual_seed(2))
    x = torch.cat([draw(task) for _ in range(DRAWS // CHUNK)])
    spent = task.energy.spent / DRAWS * (IBC_CHAINS if draw is ibc_policy else 1)
    return measured(x, target, name, spent)


def line(row: Row) -> str:
    distance = f"{row.total_variation:.3f} ± {row.total_variation_se:.3f}"
    modes = f"{row.left:.3f} ± {row.left_se:.3f} | {row.left_mode} | {row.right_mode}"
    return f"| {row.sampler} | {row.evaluations:,.0f} | {distance} | {modes} | {row.on_bound:.3f} |"


HEADER = (
    "| sampler | energy evaluations a draw | total variation | left mode's weight "
    "| left mean, sd | right mean, sd | on the bound |\n|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines, rows, steps = [HEADER], [], {}
    for target in TARGETS:
        steps[str(target)] = step_size = adapted_step_size(target)
        found = [compare(target, *entry) for entry in contestants(target, step_size).items()]
        floor, left = found[0].floor, target.first_coordinate()[: BINS // 2].sum()
        lines.append(f"| **{target}** | | **floor {floor:.3f}** | **{left:.3f}** | | | |")
        lines += map(line, found)
        rows += found
    print("\n".join(lines))
    if arguments.out:
        record = {
            "mala_step_size": steps,  # tuned beforehand on chains of their own
            "ula_step_size": ULA_STEP_SIZE,
            "proposal": {"updates": UPDATES, "batch": BATCH, "learning_rate": LEARNING_RATE},
            "torch": torch.__version__,
            "columns": Row._fields,  # a mode is (mean, its standard error, standard deviation)
            "rows": rows,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
