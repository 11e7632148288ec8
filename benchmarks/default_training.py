"""Training with the defaults on seven data sets, beside a kernel density estimate.

    python benchmarks/default_training.py --out benchmarks/results/default_training

Prints one table; with --out writes it as OUT.md and every figure as OUT.json. Each data set is
trained as it comes, unscaled: `MLPEnergy(d, (128, 128))`, `objectives.persistent_around(data)` and
`fit` with 1,000 steps of 128 rows and the moving average of the weights. A fifth of the rows is
held out.

The squared maximum mean discrepancy (MMD) is that of the persistent chains and the held-out rows,
in units of the training rows' deviations, with its standard error. Beside it stands that of draws
of a Gaussian kernel density estimate, whose bandwidth has the best likelihood of each training row
given all others, and the floor: that of training rows. For data in the plane the negative log
likelihood of the held-out rows, in nats, is by quadrature over the box of the chains. `spread` is
the range over the columns of the chains' deviation over that of the data: 1 is right. Seconds are
process time on one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn import datasets
from sklearn.neighbors import KernelDensity
from torch import Tensor

from ebrl.energies import Energy
from ebrl.estimators import maximum_mean_discrepancy
from ebrl.networks import MLPEnergy
from ebrl.objectives import ContrastiveDivergence, persistent_around
from ebrl.spaces import Box
from ebrl.training import DivergedError, fit

STEPS, BATCH, LARGEST = 1_000, 128, 1_000  # LARGEST: draws in a discrepancy
BANDWIDTHS = np.geomspace(0.03, 1.5, 24).tolist()  # in units of the deviations
GRID = 400  # points on each side of the plane


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def digits() -> Tensor:
    """Images of 8 x 8 with 17 grey levels, made continuous by uniform noise."""
    x = torch.as_tensor(datasets.load_digits().data).float()
    return (x + torch.rand(x.shape, generator=generator(9))) / 17


def mixed_scales() -> Tensor:
    """A curved table whose columns have deviations of about 1, 1,700 and .01."""
    x = torch.randn(3_000, 3, generator=generator(1))
    x[:, 1] += x[:, 0].square()
    return x * torch.tensor([1.0, 1_000.0, 0.01]) + torch.tensor([0.0, 5_000.0, 3.0])


def checkerboard() -> Tensor:
    x = 4 * torch.rand(12_000, 2, generator=generator(2)) - 2
    return x[x.floor().sum(1) % 2 == 0][:4_000]


def spiral() -> Tensor:
    angle = 3 * math.pi * torch.rand(4_000, generator=generator(3)).sqrt()
    x = torch.stack([angle * angle.cos(), angle * angle.sin()], 1) / 3
    return x + 0.1 * torch.randn(x.shape, generator=generator(4))


DATA: dict[str, Callable[[], Tensor]] = {
    "digits": digits,
    "wine": lambda: torch.as_tensor(datasets.load_wine().data).float(),
    "breast cancer": lambda: torch.as_tensor(datasets.load_breast_cancer().data).float(),
    "mixed scales": mixed_scales,
    "two moons": lambda: torch.as_tensor(datasets.make_moons(4_000, noise=0.1, random_state=0)[0])
    .float(),
    "checkerboard": checkerboard,
    "spiral": spiral,
}  # fmt: skip


class Row(NamedTuple):
    """The figures of one data set; discrepancies with their standard errors."""

    data: str
    rows: int
    dimension: int
    model: tuple[float, float]
    density_estimate: tuple[float, float]
    floor: tuple[float, float]
    likelihoods: tuple[float, float] | None  # model, density estimate: nats, lower is better
    spread: tuple[float, float]
    acceptance: float
    seconds: float


def discrepancy(x: Tensor, y: Tensor) -> tuple[float, float]:
    n = min(len(x), len(y), LARGEST)
    x = x[torch.randperm(len(x), generator=generator(6))[:n]]
    found = maximum_mean_discrepancy(x, y[:n])
    return float(found.value), float(found.standard_error)


def density_estimate(x: Tensor) -> KernelDensity:
    """Return the estimate whose bandwidth has the best leave-one-out likelihood."""
    square = torch.cdist(x, x).square().fill_diagonal_(math.inf)

    def likelihood(bandwidth: float) -> float:
        log_kernel = -square / (2 * bandwidth**2) - x.shape[1] * math.log(bandwidth)
        return float(torch.logsumexp(log_kernel, 1).mean())

    return KernelDensity(bandwidth=max(BANDWIDTHS, key=likelihood)).fit(x.numpy())


@torch.no_grad()
def negative_log_likelihood(energy: Energy, box: Box, x: Tensor) -> float:
    """Return the mean of `-log p(x)` in the box, in nats, by the midpoint rule."""
    middle = (torch.arange(GRID) + 0.5) / GRID
    points = box.low + (box.high - box.low) * torch.cartesian_prod(middle, middle)
    cell = ((box.high - box.low) / GRID).log().sum()
    return float(energy(x).mean() + torch.logsumexp(-energy(points), 0) + cell)


def measure(name: str) -> Row:
    """Train on one data set and compare."""
    x = DATA[name]()
    x = x[torch.randperm(len(x), generator=generator(5))]
    train, test = x.split([len(x) - len(x) // 5, len(x) // 5])
    torch.manual_seed(0)
    energy = MLPEnergy(x.shape[1], (128, 128))
    objective: ContrastiveDivergence = persistent_around(train)
    accepted: list[Tensor] = []
    begun = time.process_time()
    training = fit(
        energy,
        train,
        objective,
        steps=STEPS,
        generator=generator(0),
        batch_size=min(BATCH, len(train)),
        ema_decay=0.99,
        callbacks=[lambda _, metrics: accepted.append(metrics["acceptance"])],
    )
    seconds = time.process_time() - begun
    assert objective.chains is not None
    chains = objective.chains.positions[objective.chains.started]
    mean, deviation = train.mean(0), train.std(0)
    scaled = [(each - mean) / deviation for each in (chains, train, test)]
    estimate = density_estimate(scaled[1])
    draws = torch.as_tensor(estimate.sample(LARGEST, random_state=0)).float()
    likelihoods = None
    if x.shape[1] == 2:
        space = objective.sampler.space
        assert isinstance(space, Box)
        ours = negative_log_likelihood(training.average, space, test)
        theirs = float(deviation.log().sum()) - estimate.score(scaled[2].numpy()) / len(test)
        likelihoods = (ours, theirs)
    ratio = chains.std(0) / deviation
    return Row(
        data=name,
        rows=len(train),
        dimension=x.shape[1],
        model=discrepancy(scaled[0], scaled[2]),
        density_estimate=discrepancy(draws, scaled[2]),
        floor=discrepancy(scaled[1], scaled[2]),
        likelihoods=likelihoods,
        spread=(float(ratio.min()), float(ratio.max())),
        acceptance=float(torch.stack(accepted[-100:]).mean()),
        seconds=seconds,
    )


HEADER = (
    "| data | rows, columns | MMD² of the chains | of the density estimate | floor | "
    "nats, model | nats, density estimate | spread | acceptance | seconds |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def line(row: Row) -> str:
    squares = [f"{value:.4f} ± {error:.4f}" for value, error in row[3:6]]
    nats = ["", ""] if row.likelihoods is None else [f"{value:.3f}" for value in row.likelihoods]
    spread = f"{row.spread[0]:.2f} to {row.spread[1]:.2f}"
    cells = [row.data, f"{row.rows:,}, {row.dimension}", *squares, *nats, spread]
    return f"| {' | '.join(cells)} | {row.acceptance:.2f} | {row.seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", help=f"of {', '.join(DATA)}; all by default")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(HEADER)
    lines, rows = [HEADER], []
    for name in arguments.data or DATA:
        try:
            row = measure(name)
        except DivergedError as error:
            lines.append(f"| {name} | diverged: {error} | | | | | | | | |")
        else:
            rows.append(row._asdict())
            lines.append(line(row))
        print(lines[-1], flush=True)
    if arguments.out:
        record = {"steps": STEPS, "batch": BATCH, "torch": torch.__version__, "rows": rows}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
