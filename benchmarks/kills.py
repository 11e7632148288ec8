"""Kill trainings at random moments, resume them, and compare where they end with undisturbed ones.

    python benchmarks/kills.py --kills 17         # of each of the eight configs

Each trial sends SIGKILL to `ebrl train` (or `fit`, or the `resume` after it) at a moment drawn
uniformly from the time that the undisturbed run took, up to three times, and then lets it end. It
passes when every tensor of what the run delivers, every counter and random stream beside them, and
every evaluation is equal to the bit. Commands run in forks of a process that has imported what they
need, so that the kills meet trainings and not imports. With --journal FILE a benchmark that was
stopped goes on: trials that the file holds are not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}

import matplotlib.pyplot as plt  # noqa: F401
import numpy as np
import yaml
from machine import commit, processor

import ebrl.command.training.agent_training
import ebrl.command.training.energy_training
import ebrl.objectives  # noqa: F401
from ebrl import storage
from ebrl.command import main as run_ebrl

RESULTS = Path(__file__).parent / "results"
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
    "CartPole-v1, VecNormalize": {**agent("SoftQ", "CartPole-v1"), "normalize": "both"},
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


def work(arguments: list[str], said: Path) -> None:
    """Run the command in a fork, with its output in a file."""
    with said.open("w") as file:
        sys.stdout = sys.stderr = file
        code = run_ebrl(arguments)
    os._exit(code)


def run(arguments: list[str], said: Path, kill_after: float | None = None) -> bool:
    """Run the command, killed after so many seconds if it is still at work; whether it ended."""
    process = multiprocessing.get_context("fork").Process(target=work, args=(arguments, said))
    process.start()
    process.join(kill_after)
    if killed := process.is_alive():
        process.kill()
        process.join()
    elif process.exitcode != 0:
        raise RuntimeError(f"ebrl {' '.join(arguments)}: {said.read_text()}")
    return not killed


def delivered(folder: Path) -> dict[str, Any]:
    """Return what the newest checkpoint holds, and the evaluations of a finished run."""
    newest = storage.load(max((folder / "checkpoints").glob("checkpoint-*")))
    found: dict[str, Any] = {name: tensor.numpy() for name, tensor in newest.tensors.items()}
    found |= {f"fact {name}": json.dumps(_timeless(fact)) for name, fact in newest.facts.items()}
    evaluations = folder / "evaluations.json"
    if evaluations.exists():
        rows = json.loads(evaluations.read_text())
        found["evaluations"] = np.array([row["returns"] for row in rows])
    return found


def _timeless(fact: Any) -> Any:
    """Drop what holds seconds: `t`, when an episode ended, and the environments, where Monitor is.

    Spaces of environments have random streams, too, which nothing seeds and nothing draws from.
    """
    if isinstance(fact, dict):
        return {key: _timeless(one) for key, one in fact.items()}
    if isinstance(fact, list):
        return [
            _timeless(one)
            for one in fact
            if not (isinstance(one, list) and one[:1] in (["t"], ["environments"]))
        ]
    return fact


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
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
        arguments = (
            ["resume", str(folder), "--trust"]
            if begun
            else [verb, str(config), "--run", str(folder)]
        )
        limit = stream.uniform(0, seconds) if kills < KILLS else None
        if run(arguments, folder.with_suffix(".said"), limit):
            return kills
        kills += 1


def examine(name: str, kills: int, seed: int, rows: list[dict[str, Any]], journal: Path) -> None:
    """Run trials of a config until there were so many kills; add a row for each."""
    done = [row for row in rows if row["config"] == name]
    if sum(row["kills"] for row in done) >= kills:
        return
    verb = "fit" if "objective" in CONFIGS[name] else "train"
    with tempfile.TemporaryDirectory() as work:
        config = Path(work) / "config.yaml"
        config.write_text(yaml.safe_dump(CONFIGS[name]))
        start = time.perf_counter()
        run([verb, str(config), "--run", f"{work}/whole"], Path(work) / "whole.said")
        seconds = time.perf_counter() - start
        whole = delivered(Path(work) / "whole")
        for i in itertools.count(len(done)):
            folder = Path(work) / f"killed-{i}"
            count = trial(verb, config, folder, seconds, random.Random(f"{seed} {name} {i}"))
            unequal = differences(whole, delivered(folder))
            shutil.rmtree(folder)
            rows.append({"config": name, "trial": i, "kills": count, "unequal": unequal})
            with journal.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(rows[-1], flush=True)
            if sum(row["kills"] for row in rows if row["config"] == name) >= kills:
                return


def summary(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    own = [row for row in rows if row["config"] == name]
    return {
        "config": name,
        "trials": len(own),
        "kills": sum(row["kills"] for row in own),
        "unequal": sorted({one for row in own for one in row["unequal"]}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=17)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--configs", nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--journal", type=Path, default=Path(os.devnull))
    given = parser.parse_args()
    sys.path.append(str(Path(__file__).parent))  # where kill_worlds is
    rows = (
        [json.loads(line) for line in given.journal.read_text().splitlines()]
        if (given.journal.exists())
        else []
    )
    for name in given.configs:
        examine(name, given.kills, given.seed, rows, given.journal)
    found = [summary(name, rows) for name in given.configs]
    facts = {"processor": processor(), "commit": commit(), "seed": given.seed}
    (RESULTS / "kills.json").write_text(json.dumps({**facts, "rows": found}, indent=1) + "\n")
    lines = [
        f"{facts['processor']}, commit {facts['commit']}, seed {given.seed}",
        "",
        "| config | trials | kills | trials that ended elsewhere |",
        "|---|---|---|---|",
        *(
            f"| {row['config']} | {row['trials']} | {row['kills']} | "
            f"{', '.join(row['unequal']) or 'none'} |"
            for row in found
        ),
    ]
    (RESULTS / "kills.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
