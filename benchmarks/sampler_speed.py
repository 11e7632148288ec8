"""Langevin chains beside other libraries, and acting beside Stable-Baselines3.

    pip install -e '.[benchmark]'
    python benchmarks/sampler_speed.py --threads 1 2 --out benchmarks/results/sampler_speed.json
    python benchmarks/sampler_speed.py --device cuda --out benchmarks/results/sampler_speed.json

Every rival runs the same algorithm, unadjusted Langevin, on the same weights in float32: it is the
one that all of them have. *Acting* is what an agent does for one observation: MALA in a tanh box,
as a ratio to `predict` of Stable-Baselines3's SAC, which draws one action from a network. On one
perceptron a bare loop of torch calls (`bare_loop.py`) shows what an eager chain can reach. One of
our rows has its matrix products in bfloat16, under autocast. The rivals take turns, a run each, and
the ratio is taken within a round, so that a machine whose speed drifts does not decide it. Medians
over the rounds, with the range, for each processor that the command was run on: processors differ
in the cost of a call relative to a product. Each rival has a process of its own, held to as many
cores as it has threads: what another library leaves in the allocator changes the page faults of
torchebm, which asks for new memory at each step. With one thread the clock is the processor's time,
with more and on a GPU the wall's. What is not installed is left out, with a note. ebrl also gives
the energies at the end and counts what it rejected, which costs it one gradient more than the
others; compile times are those without a cache.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import torch
from bare_loop import bare_loop
from machine import commit, device_name
from sampler_speed_table import as_markdown
from sampler_speed_workloads import ACTION, OBSERVATION, WORKLOADS, Workload
from torch import Tensor

from ebrl import Sampler
from ebrl.kernels import MALA, ULA, Kernel
from ebrl.networks import BoundMLP
from ebrl.spaces import Box

REFERENCE, BARE, PREDICT = "torchebm", "bare loop of torch calls", "SB3's SAC, predict"
COMPILED, IN_BFLOAT16 = "ebrl, compiled", "ebrl, compiled, bfloat16"
LOAD = "load average before each workload, threads"
PEERS = [name for name in ("torchebm", "jax", "blackjax") if find_spec(name)]
STEP_SIZE = 1e-3
Run = Callable[[], Any]
run: Run  # of this process, once `prepare` has built it


def rows(x: Tensor) -> Tensor:
    """Return the chains of (observations, particles, dimension) in one batch axis."""
    return x.flatten(0, 1) if x.ndim == 3 else x


def ebrl_run(work: Workload, compile: bool = False) -> Run:
    options: dict[str, Any] = {"compile": True} if compile else {}
    kernel: Kernel = MALA() if work.acts else ULA()
    options["space"] = Box(-1.0, 1.0, walls="tanh") if work.acts else None
    sampler = Sampler(kernel, steps=work.steps, step_size=STEP_SIZE, **options)
    generator = torch.Generator(work.x.device).manual_seed(0)
    return lambda: sampler.sample(work.ours(), work.x, generator=generator)


def in_bfloat16(run: Run, device: str) -> Run:
    """Return the run with its matrix products in bfloat16, torch's own option."""

    def rounded() -> Any:
        with torch.autocast(device, torch.bfloat16):
            return run()

    return rounded


def bare_run(work: Workload) -> Run:
    generator = torch.Generator(work.x.device).manual_seed(0)
    return bare_loop(cast(BoundMLP, work.ours()), work.x, work.steps, STEP_SIZE, generator)


def predict_run(work: Workload) -> Run:
    """Return SB3's choice of one action, by a SAC of the critics' sizes."""
    import gymnasium as gym
    import numpy as np
    from stable_baselines3 import SAC

    class Wide(gym.Env):
        observation_space = gym.spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32)
        action_space = gym.spaces.Box(-1.0, 1.0, (ACTION,), np.float32)

    model = SAC("MlpPolicy", Wide(), buffer_size=1, device=work.x.device)
    observation = np.random.default_rng(0).normal(size=OBSERVATION).astype(np.float32)
    return lambda: model.predict(observation)


def torchebm_run(work: Workload) -> Run:
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    class Model(BaseModel):
        def forward(self, x: Tensor) -> Tensor:
            return work.torch_energy(x)

    model = Model(device=work.x.device)
    sampler = LangevinDynamics(model, step_size=STEP_SIZE, device=work.x.device)
    generator = torch.Generator(work.x.device).manual_seed(0)
    x = rows(work.x)
    return lambda: sampler.sample(x, n_steps=work.steps, generator=generator)


def jax_run(work: Workload, blackjax: bool = False) -> Run:
    """Return the chain as one jitted scan, of our own step or of blackjax's."""
    import jax
    import jax.numpy as jnp

    slope = jax.value_and_grad(lambda x, c: -work.jax_energy(x, c))
    x = jnp.asarray(rows(work.x).cpu().numpy())
    given = rows(work.x)[:, :0] if work.conditions is None else work.conditions
    c = jnp.asarray(given.cpu().numpy())
    gradients = jax.vmap(slope)

    def plain(state: Any, key: Any) -> tuple[Any, None]:
        noise = jax.random.normal(key, state.shape)
        return state + STEP_SIZE * gradients(state, c)[1] + (2 * STEP_SIZE) ** 0.5 * noise, None

    if not blackjax:
        chain = jax.jit(lambda x, key: jax.lax.scan(plain, x, jax.random.split(key, work.steps))[0])
    else:
        from blackjax.mcmc.diffusions import DiffusionState, overdamped_langevin

        move = overdamped_langevin(gradients)  # the batch of chains is one position

        def chain(x: Any, key: Any) -> Any:
            start = DiffusionState(x, *gradients(x, c))
            keys = jax.random.split(key, work.steps)
            return jax.lax.scan(lambda s, k: (move(k, s, STEP_SIZE, (c,)), None), start, keys)[0]

        chain = jax.jit(chain)
    key = jax.random.key(0)
    return lambda: jax.block_until_ready(chain(x, key))


RIVALS: dict[str, Callable[[Workload], Run]] = {
    "ebrl": ebrl_run,
    BARE: bare_run,
    COMPILED: partial(ebrl_run, compile=True),
    IN_BFLOAT16: lambda work: in_bfloat16(ebrl_run(work, compile=True), work.x.device.type),
    REFERENCE: torchebm_run,
    "JAX scan": jax_run,
    "blackjax": partial(jax_run, blackjax=True),
    PREDICT: predict_run,
}
NEEDED = {REFERENCE: ["torchebm"], "JAX scan": ["jax"], "blackjax": ["jax", "blackjax"]}


def takes_part(name: str, chosen: list[str], compiled: bool, device: str) -> list[str]:
    """Return those of the chosen rivals that take part in a workload."""
    work = built(name, device)
    energy = work.ours()
    possible = {
        "ebrl": True,
        BARE: isinstance(energy, BoundMLP) and energy.network.members == 1,
        COMPILED: compiled and (work.acts or work.compiled_target is not None),
        IN_BFLOAT16: compiled and work.compiled_target is not None and work.conditions is not None,
        **{rival: set(needed) <= set(PEERS) for rival, needed in NEEDED.items()},
        PREDICT: work.acts,
    }
    ours_and_theirs = ("ebrl", COMPILED, PREDICT)
    return [
        rival
        for rival in RIVALS
        if rival in chosen and possible[rival] and (not work.acts or rival in ours_and_theirs)
    ]


def built(name: str, device: str) -> Workload:
    torch.manual_seed(0)
    with torch.device(device):
        return WORKLOADS[name]()


def prepare(name: str, rival: str, threads: int, device: str) -> None:
    """Build a rival's run, the only one of this process, on as many cores as it has threads."""
    global run
    if device == "cpu":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    run = RIVALS[rival](built(name, device))


def turn(times: int = 1, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of a run in this process."""
    start = clock()
    for _ in range(times):
        run()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
    return (clock() - start) / times


def measure(
    name: str, rivals: list[str], threads: int, rounds: int, device: str
) -> dict[str, dict]:
    # Of one thread the processor's time is the time, whoever else uses the machine.
    clock = time.process_time if threads == 1 and device == "cpu" else time.perf_counter
    work, spawn = built(name, device), get_context("spawn")
    times: dict[str, list[float]] = {rival: [] for rival in rivals}
    with ExitStack() as stack:
        processes = {
            rival: stack.enter_context(
                ProcessPoolExecutor(1, spawn, prepare, (name, rival, threads, device))
            )
            for rival in times
        }

        def seconds(rival: str, *arguments: Any) -> float:
            return processes[rival].submit(turn, *arguments).result()

        first = {rival: seconds(rival) for rival in times}  # compiles and warms up
        # A round lasts at least a fifth of a second a rival: short runs are repeated.
        again = {rival: max(1, int(0.2 / min(seconds(rival), 0.2))) for rival in times}
        for _ in range(rounds):
            for rival, found in times.items():
                found.append(seconds(rival, again[rival], clock))
    reference = times.get(PREDICT if work.acts else REFERENCE)
    return {
        f"{name}: {rival}": row(work, rival, found, reference, first[rival])
        for rival, found in times.items()
    }


def row(
    work: Workload, rival: str, found: list[float], reference: list[float] | None, first: float
) -> dict:
    ordered = sorted(found)
    figures: dict = {"about": work.about, "seconds": ordered[len(found) // 2]}
    if reference is not None:
        ratios = sorted(one / other for one, other in zip(found, reference, strict=True))
        figures |= {"ratio": ratios[len(ratios) // 2], "ratio_range": [ratios[0], ratios[-1]]}
    aims = work.x.device.type == "cpu"  # the targets are those of a processor
    if aims and rival == "ebrl" and not work.acts:
        figures["target"] = work.eager_target
    if aims and rival in (COMPILED, IN_BFLOAT16) and not work.acts:
        figures["target"] = work.compiled_target
    if rival not in ("ebrl", REFERENCE, BARE, PREDICT):  # these build nothing
        figures["compile_seconds"] = first - figures["seconds"]
    return figures


MISSING = [name for name in ("torchebm", "jax", "blackjax") if name not in PEERS]


def place(row: str) -> tuple[int, int]:
    """Return where a row stands in the table: by workload, then by rival."""
    name, _, rival = row.partition(": ")
    return list(WORKLOADS).index(name), list(RIVALS).index(rival)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--rivals", nargs="+", choices=list(RIVALS), default=list(RIVALS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled sampler")
    parser.add_argument("--out", type=Path, help="write the figures as JSON and as a table")
    arguments = parser.parse_args()
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # it would take the whole card
    for peer in MISSING:
        print(f"{peer} is not installed: left out")
    facts: dict[str, Any] = {
        "algorithm": "unadjusted Langevin, float32 where no other type is named",
        "rounds": arguments.rounds,
        "clock": "processor time with 1 thread, else wall time; building: wall time",
        "cores": os.cpu_count(),
        "commit": commit(),
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", *PEERS)),
    }
    before = arguments.out and arguments.out.with_suffix(".json").exists()
    record = json.loads(arguments.out.with_suffix(".json").read_text()) if before else {}
    # Of other machines, and of workloads not measured now, the figures stay.
    machine = device_name(arguments.device)
    mine = record.setdefault(machine, {"facts": {}, "tables": {}})
    tables, loads = mine["tables"], mine["facts"].get(LOAD, {})
    mine["facts"] = facts | {LOAD: loads}
    about = {name: build().about for name, build in WORKLOADS.items()}
    for threads, name in product(arguments.threads, arguments.workloads):
        loads[f"{name}, {threads}"] = round(os.getloadavg()[0], 2)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        rivals = takes_part(name, arguments.rivals, not arguments.no_compile, arguments.device)
        found = measure(name, rivals, threads, arguments.rounds, arguments.device)
        table = tables.get(str(threads), {}) | found
        tables[str(threads)] = {row: table[row] for row in sorted(table, key=place)}
        if arguments.out:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
            arguments.out.with_suffix(".md").write_text(as_markdown(record, about))
    print(as_markdown({machine: mine}, about))


if __name__ == "__main__":
    main()
