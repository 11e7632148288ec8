"""Scale: what one trial costs the machines that all trials share.

    python benchmarks/scale.py --out benchmarks/results/scale

Measured: the size of a checkpoint of HalfCheetah after 300,000 steps and the CPU seconds to write
it; the CPU seconds that the driver of a Ray Tune sweep needs for each report of a trial; the bytes
that Tune keeps of a report. The page of the documentation computes from these how many machines one
driver and one shared disk can serve.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import torch
from gymnasium import spaces
from machine import commit, processor

from ebrl.agents import EnergyActorCritic
from ebrl.agents.checkpoints import save_checkpoint

STEPS, TRIALS, REPORTS = 300_000, 4, 250


class Cheetah(gym.Env[np.ndarray, np.ndarray]):
    """The shapes of HalfCheetah-v5, without its simulator."""

    observation_space = spaces.Box(-np.inf, np.inf, (17,))
    action_space = spaces.Box(-1, 1, (6,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(17, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(17, np.float32), 0.0, False, False, {}


def checkpoint() -> dict[str, float]:
    agent = EnergyActorCritic("MlpPolicy", Cheetah(), buffer_size=STEPS, seed=0)
    agent.learn(101)  # the optimisers have their state
    replay, random = agent.replay_buffer, np.random.default_rng(0)
    assert replay is not None
    for name in ("observations", "next_observations", "actions", "rewards"):
        array = getattr(replay, name)
        array[:] = random.standard_normal(array.shape)
    replay.pos, replay.full = 0, True
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.zip"
        started = time.process_time()
        save_checkpoint(path, agent)
        return {
            "checkpoint_mb": path.stat().st_size / 1e6,
            "checkpoint_cpu_seconds": time.process_time() - started,
        }


def driver() -> dict[str, float]:
    import ray
    from ray import tune

    def trial(parameters: dict[str, Any]) -> None:
        for step in range(REPORTS):
            tune.report({"mean": float(step), "timesteps": 5_000 * step, "scores": []})

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    me = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(trial, {"cpu": 1}),
            param_space={"x": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(metric="mean", mode="max", num_samples=TRIALS),
            run_config=tune.RunConfig(name="scale", storage_path=folder, verbose=0),
        )
        head = [
            p for p in psutil.process_iter(["name"]) if p.info["name"] in ("gcs_server", "raylet")
        ]
        before = sum(me.cpu_times()[:2]), sum(sum(p.cpu_times()[:2]) for p in head)
        tuner.fit()
        after = sum(me.cpu_times()[:2]), sum(sum(p.cpu_times()[:2]) for p in head)
        kept = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    ray.shutdown()
    reports = TRIALS * REPORTS
    return {
        "driver_cpu_ms_a_report": 1e3 * (after[0] - before[0]) / reports,
        "head_cpu_ms_a_report": 1e3 * (after[1] - before[1]) / reports,
        "kept_bytes_a_report": kept / reports,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scale"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    figures = {**checkpoint(), **driver()}
    print(json.dumps(figures))
    given.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    lines = [
        "| measured | |",
        "|---|---|",
        f"| a checkpoint of HalfCheetah after {STEPS:,} steps "
        f"| {figures['checkpoint_mb']:.0f} MB |",
        f"| CPU time to write it | {figures['checkpoint_cpu_seconds']:.2f} s |",
        f"| the driver's CPU time for a report | {figures['driver_cpu_ms_a_report']:.1f} ms |",
        f"| that of Ray's head processes | {figures['head_cpu_ms_a_report']:.1f} ms |",
        f"| kept by Tune of a report | {figures['kept_bytes_a_report']:,.0f} bytes |",
        "",
        f"{TRIALS} trials of {REPORTS} reports, as fast as they go. Commit {commit()}, "
        f"{processor()}, one thread.",
    ]
    given.out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
