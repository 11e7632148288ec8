"""Updates per second of EnergyActorCritic as a ratio to Stable-Baselines3's SAC.

    python benchmarks/update_speed.py --out benchmarks/results/update_speed.json

Equal networks (256, 256), equal batches (256), HalfCheetah's sizes, one thread. The algorithms take
turns, each in a process of its own, and the ratio is taken within a round, so that a machine whose
speed drifts does not decide it. Medians over the rounds, with the range. Speeds are by CPU time; a
start includes the processes of the compiler. SBX's SAC and sb3-contrib's CrossQ run where these are
installed, bfloat16 where the processor multiplies it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

# Read when jax is loaded: one thread for SBX, too.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch
from machine import commit, processor
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from ebrl.agents import EnergyActorCritic
from ebrl.training.precision import fastest_precision

BATCH = 256
OBSERVATIONS, ACTIONS = 17, 6  # HalfCheetah's
Build = Callable[[gym.Env], OffPolicyAlgorithm]


def ours(**arguments: Any) -> Build:
    return partial(EnergyActorCritic, "MlpPolicy", buffer_size=10_000, moves=0, **arguments)


PLAIN: dict[str, Any] = {"normalization": None, "target": "average", "policy_delay": 1}
COMPILED: dict[str, Any] = {"compile": True}
BFLOAT16: dict[str, Any] = {"compile": True, "precision": "bfloat16"}
RIVALS: dict[str, Build] = {
    "SB3 SAC": partial(SAC, "MlpPolicy", buffer_size=10_000),
    "1 candidate": ours(**PLAIN, candidates=1),
    "1 candidate, compiled": ours(**PLAIN, candidates=1, **COMPILED),
    "1 candidate, compiled, bfloat16": ours(**PLAIN, candidates=1, **BFLOAT16),
    "4 candidates": ours(**PLAIN, candidates=4),
    "4 candidates, compiled": ours(**PLAIN, candidates=4, **COMPILED),
    "4 candidates, compiled, bfloat16": ours(**PLAIN, candidates=4, **BFLOAT16),
    "normalised, no target networks": ours(candidates=1),
    "normalised, no target networks, compiled": ours(candidates=1, **COMPILED),
    "normalised, no target networks, compiled, bfloat16": ours(candidates=1, **BFLOAT16),
}


class Spaces(gym.Env):
    """Spaces and nothing else."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (OBSERVATIONS,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)


class Start(NamedTuple):
    """What an algorithm's first updates cost."""

    seconds: float  # of CPU time, mostly of a compiler
    megabytes: float  # that the process grew by


def rivals() -> dict[str, Build]:
    found = dict(RIVALS)
    if fastest_precision(torch.device("cpu")) != "bfloat16":
        found = {name: build for name, build in found.items() if "bfloat16" not in name}
    if importlib.util.find_spec("sb3_contrib") is not None:
        from sb3_contrib import CrossQ

        narrow = {"net_arch": [256, 256]}
        found["sb3-contrib CrossQ, 256 wide"] = partial(
            CrossQ, "MlpPolicy", buffer_size=10_000, policy_kwargs=narrow
        )
    if importlib.util.find_spec("sbx") is not None:
        import sbx

        found["SBX SAC"] = partial(sbx.SAC, "MlpPolicy", buffer_size=10_000)
    return found


class Turns:
    """The algorithm of this process."""

    model: OffPolicyAlgorithm


def start(name: str) -> Start:
    """Build an algorithm, fill its replay and make its first ten updates."""
    rng = np.random.default_rng(0)
    build = rivals()[name]
    before, size_before = cpu_seconds(), resident_megabytes()
    model = Turns.model = build(Spaces())
    for _ in range(5_000):
        model.replay_buffer.add(
            rng.normal(size=(1, OBSERVATIONS)).astype(np.float32),
            rng.normal(size=(1, OBSERVATIONS)).astype(np.float32),
            rng.uniform(-1, 1, size=(1, ACTIONS)).astype(np.float32),
            rng.normal(size=1).astype(np.float32),
            np.zeros(1, np.float32),
            [{}],
        )
    model.set_logger(configure(None, []))
    for _ in range(10):
        model.train(1, BATCH)
    return Start(cpu_seconds() - before, resident_megabytes() - size_before)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(kind)[:2]) for kind in kinds)


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def updates_per_second(updates: int) -> float:
    model, begin = Turns.model, time.process_time()
    for _ in range(updates):
        model.train(1, BATCH)
    if type(model).__module__.startswith("sbx"):
        import jax

        jax.block_until_ready(model.policy.actor_state.params)
    return updates / (time.process_time() - begin)


def measure(rounds: int, updates: int, threads: int) -> dict[str, dict]:
    processes = {
        name: ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (threads,))
        for name in rivals()
    }
    starts = {name: process.submit(start, name).result() for name, process in processes.items()}
    speeds: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(rounds):
        for name, process in processes.items():
            speeds[name].append(process.submit(updates_per_second, updates).result())
    for process in processes.values():
        process.shutdown()
    reference = np.array(speeds["SB3 SAC"])
    table = {}
    for name, found in speeds.items():
        ratios = np.array(found) / reference
        table[name] = {
            "updates_per_second": float(np.median(found)),
            "ratio": float(np.median(ratios)),
            "ratio_range": [float(ratios.min()), float(ratios.max())],
            "seconds_to_start": starts[name].seconds,
            "megabytes": starts[name].megabytes,
        }
    return table


def as_markdown(table: dict[str, dict]) -> str:
    rows = [
        "| agent | updates a second | x SB3 SAC, median (range) | CPU s to start | MB |",
        "|---|---|---|---|---|",
    ]
    for name, row in table.items():
        low, high = row["ratio_range"]
        speed = f"{row['updates_per_second']:.0f} | {row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        rows.append(
            f"| {name} | {speed} | {row['seconds_to_start']:.0f} | {row['megabytes']:.0f} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=40, help="updates in a block")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    # Programs that were compiled before would start for nothing.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()
    table = measure(arguments.rounds, arguments.updates, arguments.threads)
    print(as_markdown(table))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        facts = {
            "batch": BATCH,
            "net_arch": [256, 256],
            "observation, action": [OBSERVATIONS, ACTIONS],
            "threads": arguments.threads,
            "rounds": arguments.rounds,
            "clock": "process CPU time",
            "processor": f"{processor()} ({torch.backends.cpu.get_cpu_capability()})",
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "torch": torch.__version__,
            "stable_baselines3": stable_baselines3.__version__,
            "commit": commit(),
        }
        arguments.out.with_suffix(".json").write_text(
            json.dumps({"facts": facts, "table": table}, indent=1) + "\n"
        )
        told = ", ".join(f"{name} {value}" for name, value in facts.items())
        arguments.out.with_suffix(".md").write_text(f"{as_markdown(table)}\n\nOn: {told}.\n")


if __name__ == "__main__":
    main()
