"""Kill a sweep of 16 trials at random moments, let it end, and compare it with an undisturbed one.

    python benchmarks/sweep_kills.py --kills 10

Every second time SIGKILL goes to the process of a run, which the sweep restarts; the other times to
the sweep itself, which the same command then continues. It passes when no finished trial is lost,
every trial has the score of the undisturbed sweep, and the best one is the same.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import psutil
import yaml
from machine import commit, processor
from optuna.trial import TrialState

RESULTS = Path(__file__).parent / "results"
TRIALS = 16
TASK = "CartPole-v1"
RATES = "agent.learning_rate=1e-4:1e-1:log"
CONFIG = {
    "agent": {
        "class_path": "ebrl.agents.SoftQ",
        "init_args": {
            "policy": "MlpPolicy",
            "env": TASK,
            "learning_starts": 50,
            "buffer_size": 1_000,
            "batch_size": 32,
            "policy_kwargs": {"net_arch": [16]},
        },
    },
    "total_timesteps": 300,
    "checkpoint_every": 50,
    "evaluate_every": 100,
    "evaluation_episodes": 5,
}


class Killed(NamedTuple):
    """What became of one disturbed sweep."""

    victim: str  # "run" or "sweep"
    seconds: float  # after its start
    finished: int  # trials that had finished by then
    lost: int  # of those
    same_scores: bool
    same_best: bool


def start(folder: Path) -> subprocess.Popen[bytes]:
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    words = ["sweep", str(config), RATES, "--trials", str(TRIALS), "--out", str(folder / "sweep")]
    return subprocess.Popen(
        [sys.executable, "-m", "ebrl", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a sweep; `RuntimeError` with its last words unless it succeeded."""
    _, said = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"exit code {process.returncode}: {said.decode()[-500:]}")


def scores(folder: Path) -> dict[float, float]:
    """Return the score of every finished trial by its learning rate."""
    path = folder / "sweep" / TASK / "study.db"
    if not path.exists():
        return {}
    try:
        study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{path}")
    except KeyError:  # killed before the study was made
        return {}
    trials = study.get_trials(states=[TrialState.COMPLETE])
    return {trial.params["agent.learning_rate"]: trial.value for trial in trials}


def disturbed(undisturbed: dict[float, float], victim: str, seconds: float) -> Killed:
    """Kill a process of a sweep after `seconds`, or the first run that comes later."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = start(folder)
        began = time.monotonic()
        while (spent := time.monotonic() - began) < seconds:
            time.sleep(0.02)
        target = psutil.Process(process.pid)
        if victim == "run":
            while not (runs := target.children()):
                time.sleep(0.02)
            target = runs[0]
        before = scores(folder)
        target.kill()
        if victim == "sweep":
            process.communicate()
            process = start(folder)
        finish(process)
        after = scores(folder)
    best = max(undisturbed, key=undisturbed.__getitem__)
    return Killed(
        victim,
        round(spent, 1),
        len(before),
        sum(after.get(rate) != score for rate, score in before.items()),
        after == undisturbed,
        max(after, key=after.__getitem__) == best,
    )


def table(kills: list[Killed], seconds: float) -> str:
    lines = [
        f"A sweep of {TRIALS} trials takes {seconds:.0f} s undisturbed.",
        "",
        "| killed | after | trials finished by then | of these lost | all scores | best trial |",
        "|---|---|---|---|---|---|",
    ]
    for kill in kills:
        verdicts = ["the same" if same else "different" for same in kill[4:]]
        lines.append(
            f"| the {kill.victim} | {kill.seconds:.0f} s | {kill.finished} | {kill.lost} | "
            f"{verdicts[0]} | {verdicts[1]} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    moments = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        finish(start(Path(name)))
        seconds, undisturbed = time.monotonic() - began, scores(Path(name))
    print(f"undisturbed: {len(undisturbed)} trials in {seconds:.0f} s", flush=True)
    kills: list[Killed] = []
    for k in range(given.kills):
        kills.append(disturbed(undisturbed, ("run", "sweep")[k % 2], moments.uniform(0, seconds)))
        print(kills[-1], flush=True)
        facts: dict[str, Any] = {"machine": processor(), "commit": commit(), "seed": given.seed}
        stored = {**facts, "seconds": seconds, "kills": [kill._asdict() for kill in kills]}
        (RESULTS / "sweep_kills.json").write_text(json.dumps(stored, indent=1) + "\n")
        (RESULTS / "sweep_kills.md").write_text(table(kills, seconds))


if __name__ == "__main__":
    main()
