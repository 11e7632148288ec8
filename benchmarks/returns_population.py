"""Returns of many seeds of EnergyActorCritic at once, as one batched program on a GPU.

    python benchmarks/returns_population.py run ant --agent "normalised critics" --seeds 10 11 12
    python benchmarks/returns_population.py speed ant    # updates a second beside SB3's SAC

The protocol and the files are those of `returns.py`, except that CPU seconds are not counted.
Between two steps of the environments there is one CUDA graph: it stores the transitions, updates
every agent and draws the next actions. A run is not resumable.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from machine import commit, device_name
from population_loop import Loop
from returns import RESULTS, Evaluations
from returns_agents import AGENTS, TASKS, make
from stable_baselines3 import SAC

from ebrl.agents.population import Population

UPDATES = 300  # timed by `speed`
greedy_returns: Callable[[dict[str, torch.Tensor]], list[float]]  # of a worker


def start_worker(task: str, agent: str) -> None:
    """Prepare this process to evaluate proposals."""
    global greedy_returns
    torch.set_num_threads(1)
    model = make(task, agent, 0, device="cpu", buffer_size=1)
    evaluations = Evaluations(TASKS[task], RESULTS)
    evaluations.model = model

    def returns(state: dict[str, torch.Tensor]) -> list[float]:
        model.policy.acting_proposal.load_state_dict(state)
        return evaluations.evaluate()

    greedy_returns = returns


def evaluated(state: dict[str, np.ndarray]) -> list[float]:
    """Return the greedy returns of a proposal, in a worker."""
    return greedy_returns({name: torch.from_numpy(array) for name, array in state.items()})


def run(task: str, agent: str, seeds: list[int], device: str, workers: int, limit: float) -> None:
    """Train all seeds, evaluate them as they go, and write a record for each."""
    began, every, steps = time.monotonic(), TASKS[task].every, TASKS[task].steps
    models = [make(task, agent, seed, device="cpu", buffer_size=1) for seed in seeds]
    environments = [gym.make(TASKS[task].env) for _ in seeds]
    loop = Loop(Population(models, device), environments, seeds, TASKS[task].settings, steps)
    pending: list[tuple[int, list[Future[list[float]]]]] = []
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, start_worker, (task, agent)) as pool:
        for step in loop.steps():
            if step % every == 0:
                states = loop.population.proposals()
                pending.append((step, [pool.submit(evaluated, plain(state)) for state in states]))
                show(pending, time.monotonic() - began)
            if time.monotonic() - began > limit:
                break
        for _, futures in pending:
            for future in futures:
                future.result()
    write(task, agent, seeds, pending, time.monotonic() - began, device)


def plain(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in state.items()}


def show(pending: list[tuple[int, list[Future[list[float]]]]], seconds: float) -> None:
    """Print the newest evaluation that is complete."""
    done = [(step, each) for step, each in pending if all(future.done() for future in each)]
    if done:
        step, futures = done[-1]
        means = [round(float(np.mean(future.result()))) for future in futures]
        print(f"{seconds:.0f} s: at {pending[-1][0]}; returns at {step}: {means}", flush=True)


def write(
    task: str,
    agent: str,
    seeds: list[int],
    pending: list[tuple[int, list[Future[list[float]]]]],
    seconds: float,
    device: str,
) -> None:
    """Write the records; those of a run that met its limit have fewer steps, and no place there."""
    whole = bool(pending) and pending[-1][0] == TASKS[task].steps
    folder = RESULTS / task if whole else RESULTS.parent / "unfinished" / task
    folder.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(seeds):
        record = {
            "agent": agent,
            "seed": seed,
            "steps": [step for step, _ in pending],
            "returns": [[round(one, 2) for one in each[i].result()] for _, each in pending],
            "cpu_seconds": None,
            "program": f"{len(seeds)} seeds at once in {seconds:.0f} s",
            "torch": torch.__version__,
            "processor": device_name(device),
            "commit": commit(),
        }
        slug = f"{agent.replace(',', '').replace(' ', '-')}.{seed}"
        (folder / f"{slug}.json").write_text(json.dumps(record) + "\n")


def speed(task: str, agent: str, sizes: list[int], device: str) -> dict[str, Any]:
    """Return agents' updates a second of populations, and of SB3's SAC on the same device."""
    found: dict[str, float] = {"SB3 SAC": updates_of_sac(task, device)}
    for size in sizes:
        models = [make(task, agent, seed, device="cpu", buffer_size=1) for seed in range(size)]
        environments = [gym.make(TASKS[task].env) for _ in range(size)]
        settings = {**TASKS[task].settings, "learning_starts": 256}
        loop = Loop(Population(models, device), environments, list(range(size)), settings, 1_000)
        for step in loop.steps():
            if step == 300:
                break
        found[f"{agent}, {size}"] = size * loop.updates_per_second(UPDATES)
    return found


def updates_of_sac(task: str, device: str) -> float:
    model = SAC("MlpPolicy", TASKS[task].env, device=device, learning_starts=100, batch_size=256)
    model.learn(300)
    return UPDATES / timed(lambda: model.train(UPDATES, 256), device)


def timed(function: Callable[[], object], device: str) -> float:
    """Return the seconds of a call."""
    began = time.perf_counter()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["run", "speed"])
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--agent", choices=list(AGENTS), default="normalised critics")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10, 20)))
    parser.add_argument("--sizes", nargs="+", type=int, default=[1, 10], help="of `speed`")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, default=2, help="processes that evaluate")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds, then it stops")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.verb == "run":
        run(given.task, given.agent, given.seeds, given.device, given.workers, given.limit)
        return
    found = speed(given.task, given.agent, given.sizes, given.device)
    facts = {"machine": device_name(given.device), "torch": torch.__version__, "commit": commit()}
    path = RESULTS.parent / "population_speed.json"
    path.write_text(json.dumps({"task": given.task, **facts, "updates": found}, indent=1) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
