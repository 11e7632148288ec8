"""Discrete kernels against enumeration, beside ebmkit's where it is installed.

    python benchmarks/discrete.py --out benchmarks/results/discrete

Prints one table; with --out writes it as OUT.md and every figure as OUT.json. The targets have few
enough states to enumerate: a 2 x 3 Ising lattice (2^6) and a 2 x 2 Potts lattice of 3 categories
(3^4), both with couplings of .6. Every row has 100,000 draws, one from each chain, which starts
uniform over the states. Total variation is that of all states; its floor is a perfect sampler's,
and the row `exact draws` is one. An energy costs 1, an energy with its gradient 3; what a sampler
spends on a draw is counted. Seconds are for all draws on one thread, by the wall clock: a busy
machine stretches them.
The peer of the extra `benchmark` runs in the same table; it differentiates the energies, where ours
use the analytic gradient.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ebrl import Sampler
from ebrl.energies import Energy, Ising, Potts, square_lattice
from ebrl.envs import total_variation, total_variation_floor
from ebrl.estimators import exact_log_probabilities
from ebrl.kernels import DMALA, DULA, Gibbs, GibbsWithGradients, Kernel
from ebrl.spaces import Binary, Categorical

DRAWS = 100_000
CHUNK = 10_000  # chains that run together
COUPLING = 0.6
STEPS = {"Gibbs": 150, "systematic": 48, "informed": 100}
STEP_SIZES = (0.5, 2.0, 8.0)  # of the discrete Langevin kernels


class Metered(Energy):
    """An energy that counts what it is asked: 1 a value, 3 a value with its gradient."""

    def __init__(self, energy: Energy):
        super().__init__()
        self.energy, self.event_ndim, self.spent = energy, energy.event_ndim, 0

    def forward(self, x: Tensor) -> Tensor:
        # A peer that differentiates calls this with x that requires grad.
        self.spent += (3 if x.requires_grad else 1) * x.flatten(-self.event_ndim)[..., 0].numel()
        return self.energy(x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.spent += 3 * x.flatten(-self.event_ndim)[..., 0].numel()
        return self.energy.value_and_gradient(x)


class Target(NamedTuple):
    """An energy with the space that enumerates it."""

    name: str
    energy: Energy
    space: Binary | Categorical


TARGETS = [
    Target("Ising, 2^6", Ising(square_lattice(2, 3, COUPLING, periodic=False)), Binary(6)),
    Target("Potts, 3^4", Potts(square_lattice(2, 2, COUPLING, periodic=False)), Categorical(4, 3)),
]
Draw = Callable[[Target, Metered, Tensor, torch.Generator], Tensor]


class Row(NamedTuple):
    """What 100,000 draws of one sampler look like."""

    target: str
    sampler: str
    evaluations: float  # a draw, counted
    total_variation: float
    floor: float
    seconds: float


def exact(target: Target, energy: Metered, x: Tensor, generator: torch.Generator) -> Tensor:
    law = exact_log_probabilities(target.energy, target.space).exp()
    return target.space.states()[torch.multinomial(law, len(x), True, generator=generator)]


def ours(
    kernel: Kernel,
    steps: int,
    step_size: float,
    target: Target,
    energy: Metered,
    x: Tensor,
    generator: torch.Generator,
) -> Tensor:
    sampler = Sampler(kernel, target.space, steps=steps, step_size=step_size)
    return sampler.sample(energy, x, generator=generator).x


def ebmkit(target: Target, energy: Metered, x: Tensor, generator: torch.Generator) -> Tensor:
    """ebmkit's Gibbs-with-gradients; it takes no generator and draws from the global stream."""
    from ebm.samplers.discrete import CategoricalGibbsWithGradients
    from ebm.samplers.discrete import GibbsWithGradients as BinaryGibbsWithGradients

    binary = isinstance(target.space, Binary)
    peer = BinaryGibbsWithGradients if binary else CategoricalGibbsWithGradients
    return peer(steps=STEPS["informed"]).sample(energy, x)


def contestants() -> dict[str, Draw]:
    """Return what is compared, by name."""
    informed = STEPS["informed"]
    draws: dict[str, Draw] = {
        "exact draws": exact,
        f"Gibbs, random scan, {STEPS['Gibbs']}": partial(ours, Gibbs(), STEPS["Gibbs"], 1.0),
        f"Gibbs, systematic scan, {STEPS['systematic']}": partial(
            ours, Gibbs("systematic"), STEPS["systematic"], 1.0
        ),
        f"Gibbs with gradients, {informed}": partial(ours, GibbsWithGradients(), informed, 1.0),
    }
    if find_spec("ebm"):
        draws[f"Gibbs with gradients of ebmkit, {informed}"] = ebmkit
    for step_size in STEP_SIZES:
        for kernel in (DMALA(), DULA()):
            name = f"{type(kernel).__name__}, step size {step_size:g}, {informed}"
            draws[name] = partial(ours, kernel, informed, step_size)
    return draws


def compare(target: Target, name: str, draw: Draw) -> Row:
    generator, energy = torch.Generator().manual_seed(2), Metered(target.energy)
    torch.manual_seed(2)  # the peer's only stream
    law = exact_log_probabilities(target.energy, target.space).exp().numpy()
    counts, begun = torch.zeros(len(law), dtype=torch.float64), time.perf_counter()
    for _ in range(DRAWS // CHUNK):
        x = draw(target, energy, target.space.reference((CHUNK,), generator), generator)
        counts += torch.bincount(target.space.index(x), minlength=len(law))
    return Row(
        target=target.name,
        sampler=name,
        evaluations=energy.spent / DRAWS,
        total_variation=total_variation((counts / DRAWS).numpy(), law),
        floor=total_variation_floor(law, DRAWS),
        seconds=time.perf_counter() - begun,
    )


def line(row: Row) -> str:
    figures = f"{row.evaluations:,.0f} | {row.total_variation:.4f} | {row.seconds:.1f}"
    return f"| {row.sampler} | {figures} |"


HEADER = (
    "| sampler, steps | energy evaluations a draw | total variation | seconds |\n|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines, rows = [HEADER], []
    for target in TARGETS:
        found = [compare(target, *entry) for entry in contestants().items()]
        lines.append(f"| **{target.name}** | | **floor {found[0].floor:.4f}** | |")
        lines += map(line, found)
        rows += found
    print("\n".join(lines))
    if arguments.out:
        record = {
            "draws": DRAWS,
            "coupling": COUPLING,
            "torch": torch.__version__,
            "columns": Row._fields,
            "rows": rows,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
