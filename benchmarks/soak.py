"""Run what a service runs for minutes and watch memory, threads and open files.

    python benchmarks/soak.py --minutes 10

Each workload has a process of its own, and all run at once. The first fifth of the time warms up;
growth is the median of the last fifth less that of the second. It writes results/soak.md and
soak.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch
from machine import commit, processor

RESULTS = Path(__file__).parent / "results"


def predict() -> Iterator[None]:
    """Predict with an agent, greedily and not, for batches of changing sizes."""
    from ebrl.agents import EnergyActorCritic

    model, rng = EnergyActorCritic("MlpPolicy", "Pendulum-v1", seed=0), np.random.default_rng(0)
    while True:
        observations = rng.normal(size=(int(rng.integers(1, 65)), 3)).astype(np.float32)
        model.predict(observations, deterministic=bool(rng.integers(2)))
        yield


def sample() -> Iterator[None]:
    """Sample a conditional energy with chains of changing numbers and conditions."""
    from ebrl import MLPEnergy, Sampler
    from ebrl.kernels import MALA

    energy = MLPEnergy(2, [64, 64], condition_dimension=3)
    sampler = Sampler(MALA(), steps=10, step_size=0.05)
    generator = torch.Generator().manual_seed(0)
    while True:
        rows, chains = (int(n) for n in torch.randint(1, 200, (2,), generator=generator))
        condition = torch.randn(rows, 3, generator=generator)
        x = torch.randn(rows, chains, 2, generator=generator)
        sampler.sample(energy.given(condition), x, generator=generator)
        yield


def denoise() -> Iterator[None]:
    """Denoise images of changing sizes."""
    from ebrl import vision

    generator = torch.Generator().manual_seed(0)
    while True:
        height, width = (int(n) for n in torch.randint(64, 400, (2,), generator=generator))
        image = torch.rand(1, height, width, generator=generator)
        vision.denoise(image, sigma=25 / 255)
        yield


def fit() -> Iterator[None]:
    """Train small energies to the end, with checkpoints and logs, one after the other."""
    from ebrl import MLPEnergy
    from ebrl.objectives import EnergyDiscrepancy
    from ebrl.training import fit
    from ebrl.training.tables import two_moons

    data = two_moons(500)
    while True:
        with tempfile.TemporaryDirectory() as folder:
            generator = torch.Generator().manual_seed(0)
            energy = MLPEnergy(2, [32])
            objective = EnergyDiscrepancy()
            fit(energy, data, objective, steps=100, generator=generator, folder=folder)
        yield


WORKLOADS: dict[str, Callable[[], Iterator[None]]] = {
    "predict": predict,
    "sample": sample,
    "denoise": denoise,
    "fit": fit,
}


def watch(name: str, seconds: float) -> list[tuple]:
    """Run a workload and return a row a second: (calls, MB, threads, open files)."""
    torch.set_num_threads(1)
    this, rows, start, seen = psutil.Process(), [], time.monotonic(), 0.0
    for calls, _ in enumerate(WORKLOADS[name](), 1):
        now = time.monotonic() - start
        if now - seen >= 1:
            seen = now
            megabytes = this.memory_info().rss / 2**20
            rows.append((calls, megabytes, this.num_threads(), this.num_fds()))
        if now > seconds:
            return rows
    raise RuntimeError(f"{name} ended by itself")


def summary(name: str, rows: list[tuple]) -> dict[str, float | str]:
    table = np.array(rows)
    fifth = max(len(table) // 5, 1)
    early, late = table[fifth : 2 * fifth], table[-fifth:]
    return {
        "workload": name,
        "calls": int(table[-1, 0]),
        "megabytes": float(np.median(early[:, 1])),
        "megabytes_grown": float(np.median(late[:, 1]) - np.median(early[:, 1])),
        "threads_grown": float(late[:, 2].max() - early[:, 2].max()),
        "files_grown": float(late[:, 3].max() - early[:, 3].max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    given = parser.parse_args()
    context, names = multiprocessing.get_context("spawn"), given.workloads
    with ProcessPoolExecutor(len(names), mp_context=context) as pool:
        seen = [pool.submit(watch, name, 60 * given.minutes) for name in names]
        rows = [summary(name, one.result()) for name, one in zip(names, seen, strict=True)]
    facts = {"processor": processor(), "commit": commit(), "minutes": given.minutes}
    (RESULTS / "soak.json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    lines = [
        f"{facts['processor']}, commit {facts['commit']}, {given.minutes:g} minutes each",
        "",
        "| workload | calls | memory, MB | growth, MB | threads | open files |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row['workload']} | {row['calls']:,} | {row['megabytes']:.0f} | "
            f"{row['megabytes_grown']:+.1f} | {row['threads_grown']:+.0f} | "
            f"{row['files_grown']:+.0f} |"
            for row in rows
        ),
    ]
    (RESULTS / "soak.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
