"""Objectives on two moons and on two unequal modes, one network, one training.

    python benchmarks/two_moons.py --out benchmarks/results/two_moons    # resumes
    python benchmarks/two_moons.py --objectives NCE --seeds 0 1 2

2-128-128-1 SiLU, 1,500 steps of Adam at 1e-3, batches of 256 of 10,000 data. `moons`: the law of
scikit-learn's `make_moons` with noise .1, standardised. `modes`: Gaussians of deviation .4 at
(±2, 0), the right one with .8 of the mass. The excess is KL(truth | model) in nats, integrated on
a grid: it has no sampling noise. `share` is the model's mass at x > 0. Each figure is given for the
last weights and for their running mean (EMA .99), a seed each; what diverges, `fit` stops. Prints
the tables and writes them as OUT.md, every run as OUT.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ebrl import Chains, DualAveraging, Sampler, objectives
from ebrl.energies import Energy, Gaussian, Mixture
from ebrl.kernels import MALA
from ebrl.networks import MLPEnergy
from ebrl.objectives import ContrastiveDivergence, NormalNoise, Objective
from ebrl.objectives.protocol import Loss
from ebrl.spaces import Box
from ebrl.training import DivergedError, fit

STEPS, BATCH, DATA, LEARNING_RATE, DECAY = 1_500, 256, 10_000, 1e-3, 0.99
HIDDEN = (128, 128)
EXTENT, CELL = 5.0, 0.05  # of the grid: [-EXTENT, EXTENT]² in cells of this width
NOISE, ARC = 0.1, 200  # of the moons; quadrature nodes on each
SHARE, GAP, DEVIATION = 0.8, 2.0, 0.4  # of the modes

# Of the chains: all of the grid, for outside nothing holds an energy up.
SQUARE = Box(torch.full((2,), -EXTENT), torch.full((2,), EXTENT))


def adaptive(steps: int) -> Sampler:
    return Sampler(MALA(), SQUARE, steps=steps, step_size=0.05, adaptation=DualAveraging())


def improved(kl: float) -> Objective:
    return objectives.ImprovedContrastiveDivergence(adaptive(20), Chains(10_000, SQUARE), kl=kl)


def recovery(sigma: float) -> Objective:
    sampler = Sampler(MALA(), steps=20, adaptation=DualAveraging())
    return objectives.RecoveryLikelihood(sampler, [0.0, sigma])


class Likelihood(nn.Module):
    """Maximum likelihood itself, its integral a sum on a grid: what chains stand in for."""

    def __init__(self, cell: float = 2 * CELL):
        super().__init__()
        axis = torch.arange(-EXTENT + cell / 2, EXTENT, cell)
        self.points, self.log_area = torch.cartesian_prod(axis, axis), 2 * math.log(cell)

    def forward(
        self,
        energy: Energy,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Loss:
        log_normalizer = torch.logsumexp(-energy(self.points), 0) + self.log_area
        return Loss(energy(x).mean() + log_normalizer, {})


# What each objective is built from: the data, for those whose noise or chains follow them.
OBJECTIVES: dict[str, Callable[[Tensor], Objective]] = {
    "EnergyDiscrepancy(.25)": lambda data: objectives.EnergyDiscrepancy(0.25, 16),
    "EnergyDiscrepancy(1)": lambda data: objectives.EnergyDiscrepancy(1.0, 16),
    "EnergyDiscrepancy(.1…3)": lambda data: objectives.EnergyDiscrepancy(
        torch.logspace(-1, math.log10(3), 16), 16
    ),
    "NCE": lambda data: objectives.NCE(NormalNoise.around(data), 4),
    "InfoNCE": lambda data: objectives.InfoNCE(NormalNoise.around(data), 16),
    "DenoisingScoreMatching(.1)": lambda data: objectives.DenoisingScoreMatching(0.1),
    "SlicedScoreMatching": lambda data: objectives.SlicedScoreMatching(),
    "ExactScoreMatching": lambda data: objectives.ExactScoreMatching(),
    "Likelihood, on a grid": lambda data: Likelihood(),
    "CD-20": lambda data: ContrastiveDivergence(adaptive(20)),
    "PCD, the default": lambda data: objectives.persistent(SQUARE),
    "PCD, MALA alone": lambda data: ContrastiveDivergence(adaptive(20), Chains(10_000, SQUARE)),
    "ImprovedContrastiveDivergence": lambda data: improved(1.0),
    "ImprovedContrastiveDivergence(kl=.1)": lambda data: improved(0.1),
    "RecoveryLikelihood(.3)": lambda data: recovery(0.3),
    "RecoveryLikelihood(1)": lambda data: recovery(1.0),
    "LearnedGenerator": lambda data: objectives.LearnedGenerator(
        nn.Sequential(
            nn.Linear(2, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2)
        ),
        2,
        gradient_penalty=0.1,
    ),
}


class Problem(NamedTuple):
    """A density on the plane."""

    sample: Callable[[int, torch.Generator], Tensor]  # (n, generator) -> (n, 2)
    log_density: Callable[[Tensor], Tensor]  # (n, 2) -> (n,)


def arcs(angle: Tensor) -> Tensor:
    """Return the outer and the inner moon without noise, `(2, n, 2)`."""
    outer = torch.stack([angle.cos(), angle.sin()], -1)
    return torch.stack([outer, torch.tensor([1.0, 0.5]) - outer])


# Mean and deviation of the law, in closed form: x of an arc has variance ½, y a mean of 2/π.
MOONS_MEAN = torch.tensor([0.5, 0.25])
MOONS_DEVIATION = torch.tensor([0.75, 0.5625 - 1 / math.pi]).add(NOISE**2).sqrt()


def sample_moons(n: int, generator: torch.Generator) -> Tensor:
    angle = math.pi * torch.rand(n, generator=generator)
    moon = torch.randint(2, (n,), generator=generator)
    x = arcs(angle)[moon, torch.arange(n)] + NOISE * torch.randn(n, 2, generator=generator)
    return (x - MOONS_MEAN) / MOONS_DEVIATION


def moons_log_density(x: Tensor) -> Tensor:
    angle = math.pi * (torch.arange(ARC) + 0.5) / ARC
    centres = arcs(angle).flatten(0, 1)  # (2 ARC, 2)
    distance = torch.cdist(x * MOONS_DEVIATION + MOONS_MEAN, centres)
    log_kernel = -0.5 * (distance / NOISE).square()
    constant = math.log(2 * ARC * 2 * math.pi * NOISE**2) - MOONS_DEVIATION.log().sum()
    return torch.logsumexp(log_kernel, 1) - constant


def modes() -> Energy:
    right, left = (Gaussian(torch.tensor([m, 0.0]), DEVIATION, 2) for m in (GAP, -GAP))
    return Mixture([right, left], [SHARE, 1 - SHARE])


def sample_modes(n: int, generator: torch.Generator) -> Tensor:
    x = DEVIATION * torch.randn(n, 2, generator=generator)
    right = torch.rand(n, generator=generator) < SHARE
    x[:, 0] += torch.where(right, GAP, -GAP)
    return x


PROBLEMS = {
    "moons": Problem(sample_moons, moons_log_density),
    "modes": Problem(sample_modes, lambda x: -modes()(x)),
}


class Truth(NamedTuple):
    """A problem on the grid."""

    points: Tensor  # (cells, 2)
    mass: Tensor  # (cells,)
    entropy: float


@cache
def truth(problem: str, cell: float = CELL) -> Truth:
    axis = torch.arange(-EXTENT + cell / 2, EXTENT, cell)
    points = torch.cartesian_prod(axis, axis)
    log_density = torch.cat([PROBLEMS[problem].log_density(p) for p in points.split(20_000)])
    mass = log_density.double().exp() * cell**2
    return Truth(points, mass, float(-(mass * log_density).sum()))


class Fit(NamedTuple):
    """How an energy compares with the truth."""

    excess: float  # KL(truth | model), nats
    share: float  # of the model's mass at x > 0


@torch.no_grad()
def evaluate(energy: Energy, problem: str) -> Fit:
    points, mass, entropy = truth(problem)
    value = torch.cat([energy(p) for p in points.split(20_000)]).double()
    log_normalizer = torch.logsumexp(-value, 0) + 2 * math.log(CELL)
    share = torch.softmax(-value, 0)[points[:, 0] > 0].sum()
    return Fit(float((mass * value).sum() + log_normalizer) - entropy, float(share))


def train(objective: Objective, data: Tensor, seed: int, steps: int) -> tuple[Energy, Energy]:
    """Return the energy with the last weights and with their running mean."""
    torch.manual_seed(seed)
    energy = MLPEnergy(2, HIDDEN)
    training = fit(
        energy,
        data,
        objective,
        steps=steps,
        generator=torch.Generator().manual_seed(seed),
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        ema_decay=DECAY,
    )
    return energy, training.average


def measure(name: str, problem: str, seed: int, steps: int = STEPS) -> dict[str, Any]:
    data = PROBLEMS[problem].sample(DATA, torch.Generator().manual_seed(1_000 + seed))
    start = time.perf_counter()
    torch.manual_seed(seed)  # of the generator's weights
    try:
        weights = train(OBJECTIVES[name](data), data, seed, steps)
        fits = [evaluate(energy, problem)._asdict() for energy in weights]
    except DivergedError as error:
        print(f"{name}: {error}")
        fits = [None, None]
    return {
        "objective": name,
        "problem": problem,
        "seed": seed,
        "seconds": round(time.perf_counter() - start, 1),
        **dict(zip(("last", "mean"), fits, strict=True)),
    }


def settings() -> dict[str, Any]:
    return {
        "steps": STEPS,
        "batch": BATCH,
        "data": DATA,
        "learning_rate": LEARNING_RATE,
        "decay": DECAY,
        "hidden": list(HIDDEN),
        "grid": [EXTENT, CELL],
        "torch": torch.__version__,
    }


def load(path: Path) -> dict[str, Any]:
    """Return the finished runs of these settings; of others, none."""
    if path.exists():
        record = json.loads(path.read_text())
        if record["settings"] == settings():
            return record
    return {"settings": settings(), "runs": []}


def save(record: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    os.replace(temporary, path)


def shown(fit: dict[str, float] | None, figure: str) -> str:
    return "diverged" if fit is None else f"{fit[figure]:.3f}"


def table(runs: list[dict[str, Any]], problem: str) -> str:
    """Return one line an objective, seeds side by side."""
    entropy, finer = truth(problem).entropy, truth(problem, CELL / 2).entropy
    lines = [
        f"**{problem}**, entropy {entropy:.4f} nats (a grid twice as fine: {finer:.4f})",
        "",
        "| objective | excess, last weights | excess, mean | share, last | share, mean | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name in OBJECTIVES:
        rows = [run for run in runs if (run["objective"], run["problem"]) == (name, problem)]
        rows.sort(key=lambda run: run["seed"])
        if rows:
            cells = [
                " / ".join(shown(row[which], figure) for row in rows)
                for figure in Fit._fields
                for which in ("last", "mean")
            ]
            seconds = sum(row["seconds"] for row in rows) / len(rows)
            lines.append(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/two_moons"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument(
        "--objectives", nargs="+", default=list(OBJECTIVES), choices=list(OBJECTIVES)
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.out.with_suffix(".json")
    for seed in arguments.seeds:
        for problem in arguments.problems:
            for name in arguments.objectives:
                done = [
                    (run["objective"], run["problem"], run["seed"]) for run in load(path)["runs"]
                ]
                if (name, problem, seed) not in done:
                    run = measure(name, problem, seed)
                    record = load(path)  # others may have written meanwhile
                    record["runs"].append(run)
                    save(record, path)
                    print(json.dumps(run, ensure_ascii=False), flush=True)
    runs = load(path)["runs"]
    text = "\n\n".join(table(runs, problem) for problem in PROBLEMS)
    print(text)
    path.with_suffix(".md").write_text(text + "\n")


if __name__ == "__main__":
    main()
