"""Kill trainings at random moments, resume them, and compare where they end with undisturbed ones.

    python benchmarks/kills.py --trials 17        # of each of the eight configs

Each trial sends SIGKILL to `ebrl train` (or `fit`, or the `resume` after it) at a moment drawn
uniformly from the time that the undisturbed run took, up to three times, and then lets it end. It
passes when every tensor of what the run delivers, and every evaluation, is equal to the bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from machine import commit, processor

from ebrl import storage

RESULTS = Path(__file__).parent / "results"
COMMAND = [sys.executable, "-m", "ebrl.command"]
KILLS = 3  # at most, of one trial


def agent(name: str, env: str, **arguments: Any) -> dict[str, Any]:
    small: dict[str, Any] = {"policy_kwargs": {"net_arch": [16]}, "buffer_size": 2_000}
    settings = {"policy": "MlpPolicy", "env": env, "learning_starts": 100, "batch_size": 32}
    return {
        "agent": {
            "class_path": f"ebrl.agents.{name}",
            "init_args": {**settings, **small, **arguments},
        },
        "total_timesteps": 600,
        "evaluate_every": 200,
        "checkpoint_every": 100,
        "evaluation_episodes": 2,
    }


MOONS = {
    "energy": {
        "class_path": "ebrl.networks.MLPEnergy",
        "init_args": {"dimension": 2, "hidden": [16]},
    },
    "data": {"class_path": "ebrl.training.tables.two_moons", "init_args": {"n": 500}},
    "objective": {"class_path": "ebrl.objectives.EnergyDiscrepancy"},
    "steps": 400,
    "checkpoint_every": 50,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "Pendulum-v1": agent("EnergyActorCritic", "Pendulum-v1"),
    "CartPole-v1, VecNormalize": {**agent("SoftQ", "CartPole-v1"), "normalize": {}},
    "goals, HER": agent(
        "EnergyActorCritic",
        "kill_worlds:Goals-v0",
        policy="MultiInputPolicy",
        replay_buffer_class="stable_baselines3.HerReplayBuffer",
    ),
    "images": agent("SoftQ", "kill_worlds:Images-v0", policy="CnnPolicy"),
    "LunarLander-v3": agent("SoftQ", "LunarLander-v3"),
    "Hopper-v5": agent("EnergyActorCritic", "Hopper-v5"),
    "Ant-v5": agent("EnergyActorCritic", "Ant-v5"),
    "two moons, fit": MOONS,
}


def run(arguments: list[str], kill_after: float | None = None) -> int:
    """Run the command, killed after so many seconds if it is still at work; the exit status."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
            "PYTHONPATH": str(Path(__file__).parent),  # where kill_worlds is
        },
    )
    try:
        _, errors = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return -signal.SIGKILL
    if process.returncode:
        raise RuntimeError(f"ebrl {' '.join(arguments)}: {errors}")
    return process.returncode


def delivered(folder: Path) -> dict[str, np.ndarray]:
    """Return every tensor of the newest checkpoint and the evaluations of a finished run."""
    newest = max((folder / "checkpoints").glob("checkpoint-*"))
    found = {name: tensor.numpy() for name, tensor in storage.load(newest).tensors.items()}
    evaluations = folder / "evaluations.json"
    if evaluations.exists():
        rows = json.loads(evaluations.read_text())
        found["evaluations"] = np.array([row["returns"] for row in rows])
    return found


def differences(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[str]:
    names = sorted(one.keys() | other.keys())
    return [
        name
        for name in names
        if name not in one or name not in other or not np.array_equal(one[name], other[name])
    ]


def trial(verb: str, config: Path, folder: Path, seconds: float, stream: random.Random) -> int:
    """Train with kills until the run ends; return how often it was killed."""
    kills = 0
    while True:
        begun = (folder / "config.yaml").exists()
        arguments = ["resume", str(folder)] if begun else [verb, str(config), "--run", str(folder)]
        limit = stream.uniform(0, seconds) if kills < KILLS else None
        if run(arguments, limit) == 0:
            return kills
        kills += 1


def examine(name: str, trials: int, stream: random.Random, work: Path) -> dict[str, Any]:
    verb = "fit" if "objective" in CONFIGS[name] else "train"
    config = work / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIGS[name]))
    start = time.perf_counter()
    run([verb, str(config), "--run", str(work / "whole")])
    seconds = time.perf_counter() - start
    whole, kills, unequal = delivered(work / "whole"), 0, []
    for i in range(trials):
        folder = work / f"killed-{i}"
        kills += trial(verb, config, folder, seconds, stream)
        unequal += differences(whole, delivered(folder))
        shutil.rmtree(folder)
    row = {"config": name, "trials": trials, "kills": kills, "unequal": sorted(set(unequal))}
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=17)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--configs", nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    given = parser.parse_args()
    rows = []
    for name in given.configs:
        with tempfile.TemporaryDirectory() as work:
            rows.append(examine(name, given.trials, random.Random(given.seed), Path(work)))
    facts = {"processor": processor(), "commit": commit(), "seed": given.seed}
    (RESULTS / "kills.json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    lines = [
        f"{facts['processor']}, commit {facts['commit']}, seed {given.seed}",
        "",
        "| config | trials | kills | trials that ended elsewhere |",
        "|---|---|---|---|",
        *(
            f"| {row['config']} | {row['trials']} | {row['kills']} | "
            f"{', '.join(row['unequal']) or 'none'} |"
            for row in rows
        ),
    ]
    (RESULTS / "kills.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
