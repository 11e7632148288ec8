"""Posteriors by NUTS: ours, blackjax and numpyro, on four tasks, with 4 and with 64 chains.

    python benchmarks/posterior.py --out benchmarks/results/posterior

Every library runs NUTS with the same numbers of chains, warm-up steps and draws, float32, on one
thread, from starts N(0, 1/16) in free coordinates, adapts to an acceptance of .8, and is compiled.
Compilation, warm-up and draws are timed apart in process time: the figures are the second call of
the warm-up and the median of five calls of the draws. The extra time of each first call counts as
compilation. Effective draws are the bulk ones of the worst coordinate (Vehtari et al. 2021), by our
own function for all. Gradients are leapfrog steps.

Means, squares and three quantiles of each coordinate are compared with independent draws of the law
where it is known, and with a long run of numpyro elsewhere, by their differences in standard
errors: `worst z` is the largest, and `expected` what the largest of so many normal numbers is. A
tail that no draw enters is compared by the error of the reference alone. Writes OUT.json after
every task, and OUT.md at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()  # or nothing would be compiled
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # whose seconds are then counted

import numpy as np
import torch
from machine import commit, processor
from posterior_tasks import TASKS, Task
from torch import Tensor

from ebrl import Sampler
from ebrl.diagnostics import effective_sample_size, split_r_hat
from ebrl.kernels import NUTS
from ebrl.sampling import warm_up

WARM_UP, CHAINS, DRAWS = 400, (4, 64), {4: 500, 64: 100}
REPEATS = 5  # of the draws, whose seconds are the median
LEVELS = (0.05, 0.5, 0.95)
Found = tuple[np.ndarray, float]  # draws (draws, chains, dimension) in u, gradients a draw


def seconds_spent() -> float:
    """Return the processor time of this process and of compilers that it started."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def clocked(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return what it returns, and its seconds."""
    start = seconds_spent()
    found = run()
    return found, seconds_spent() - start


class Ours:
    """`Sampler(NUTS(), compile=True)`, the warm-up called by itself to be timed apart."""

    name = "ebrl"

    def __init__(self, task: Task, chains: int, draws: int):
        self.task, self.draws = task, draws
        self.x = task.space.from_free(torch.as_tensor(starts(task, chains)))

    def warm_up(self, seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return warm_up(
            NUTS(),
            self.task.energy,
            self.x,
            WARM_UP,
            generator=generator,
            space=self.task.space,
            compile=True,
        )

    def run(self, warm: Any, seed: int) -> Found:
        kernel, step_size, x = warm
        sampler = Sampler(kernel, self.task.space, steps=1, step_size=step_size, compile=True)
        generator = torch.Generator().manual_seed(seed)
        trace = sampler.trace(self.task.energy, x, draws=self.draws, generator=generator)
        leapfrogs = trace.each.extra["leapfrogs"].double().mean().item()
        return self.task.space.to_free(trace.x).numpy(), leapfrogs


class BlackJax:
    """blackjax's window adaptation and NUTS, the chains side by side by `vmap`."""

    name = "blackjax"

    def __init__(self, task: Task, chains: int, draws: int):
        import blackjax
        import jax

        self.jax, self.chains, self.x = jax, chains, starts(task, chains)

        def warm(key: Any, x: Any) -> Any:
            adaptation = blackjax.window_adaptation(blackjax.nuts, task.log_density)
            (state, parameters), _ = adaptation.run(key, x, num_steps=WARM_UP)
            return state, parameters

        def walk(key: Any, state: Any, parameters: Any) -> Any:
            kernel = blackjax.nuts(task.log_density, **parameters)

            def one(state: Any, key: Any) -> Any:
                state, info = kernel.step(key, state)
                return state, (state.position, info.num_integration_steps)

            return jax.lax.scan(one, state, jax.random.split(key, draws))[1]

        self._warm, self._walk = jax.jit(jax.vmap(warm)), jax.jit(jax.vmap(walk))

    def _keys(self, seed: int) -> Any:
        return self.jax.random.split(self.jax.random.PRNGKey(seed), self.chains)

    def warm_up(self, seed: int) -> Any:
        return self.jax.block_until_ready(self._warm(self._keys(seed), self.x))

    def run(self, warm: Any, seed: int) -> Found:
        found = self._walk(self._keys(seed + 100), *warm)
        x, steps = self.jax.block_until_ready(found)
        return np.asarray(x).swapaxes(0, 1), float(np.mean(steps))


class NumPyro:
    """numpyro's NUTS by its functions, the chains side by side by `vmap`.

    `MCMC` itself compiles anew at each warm-up, which could then not be timed.
    """

    name = "numpyro"

    def __init__(self, task: Task, chains: int, draws: int):
        import jax
        from numpyro.infer.hmc import hmc

        self.jax, self.chains, self.x = jax, chains, starts(task, chains)
        begin, move = hmc(potential_fn=lambda u: -task.log_density(u), algo="NUTS")

        def warm(key: Any, x: Any) -> Any:
            state = begin(x, num_warmup=WARM_UP, rng_key=key)
            return jax.lax.fori_loop(0, WARM_UP, lambda _, state: move(state), state)

        def walk(key: Any, state: Any) -> Any:
            def one(state: Any, _: Any) -> Any:
                state = move(state)
                return state, (state.z, state.num_steps)

            return jax.lax.scan(one, state._replace(rng_key=key), None, draws)

        self._warm, self._walk = jax.jit(jax.vmap(warm)), jax.jit(jax.vmap(walk))

    def _keys(self, seed: int) -> Any:
        return self.jax.random.split(self.jax.random.PRNGKey(seed), self.chains)

    def warm_up(self, seed: int) -> Any:
        return self.jax.block_until_ready(self._warm(self._keys(seed), self.x))

    def run(self, warm: Any, seed: int) -> Found:
        found = self.jax.block_until_ready(self._walk(self._keys(seed + 100), warm))
        self.last, (x, steps) = found
        return np.asarray(x).swapaxes(0, 1), float(np.mean(steps))


def starts(task: Task, chains: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (0.25 * rng.standard_normal((chains, task.dimension))).astype(np.float32)


def measured(library: type, task: Task, chains: int) -> tuple[dict[str, Any], Tensor]:
    """Return what a library took and found, and its draws."""
    rival = library(task, chains, DRAWS[chains])
    warm, first_warm_up = clocked(lambda: rival.warm_up(0))
    warm, warm_up_seconds = clocked(lambda: rival.warm_up(1))
    _, first_run = clocked(lambda: rival.run(warm, 0))
    runs = [clocked(lambda seed=seed: rival.run(warm, seed)) for seed in range(1, 1 + REPEATS)]
    seconds = float(np.median([spent for _, spent in runs]))
    x, gradients = runs[0][0]
    draws = torch.as_tensor(np.array(x))
    effective = effective_sample_size(draws).min().item()
    compilation = first_warm_up - warm_up_seconds + first_run - seconds
    return {
        "library": library.name,
        "chains": chains,
        "draws": DRAWS[chains],
        "compilation": compilation,
        "warm-up": warm_up_seconds,
        "seconds": seconds,
        "effective": effective,
        "effective a second": effective / seconds,
        "gradients a draw": gradients,
        "effective a gradient": effective / (gradients * draws.shape[0] * chains),
        "r hat": split_r_hat(draws).max().item(),
    }, draws


def reference(task: Task) -> Tensor:
    """Return draws of the law itself or a long run of numpyro, `(draws, chains, dimension)`."""
    if task.exact is not None:
        draws = task.exact(np.random.default_rng(7), 600 * 64)
        return torch.as_tensor(draws).unflatten(0, (600, 64))
    rival = NumPyro(task, 64, DRAWS[64])
    warm = rival.warm_up(7)
    parts = []
    for seed in range(6):
        parts.append(torch.as_tensor(np.array(rival.run(warm, 1000 + seed)[0])))
        warm = rival.last
    return torch.cat(parts)


def variance_of_mean(x: Tensor) -> Tensor:
    """Return the variance of each coordinate's mean; 0 of a constant, such as a tail never met."""
    return (x.var((0, 1)) / effective_sample_size(x, "mean")).nan_to_num(0.0)


def worst_z(draws: Tensor, known: Tensor) -> tuple[float, int]:
    """Return the largest difference in standard errors, of how many statistics."""
    mean = known.double().mean((0, 1))
    flat = known.double().flatten(0, 1)
    bounds = torch.quantile(flat[:: max(len(flat) // 100_000, 1)], torch.tensor(LEVELS).double(), 0)
    statistics: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.double(),
        lambda x: (x.double() - mean).square(),
        *((lambda x, bound=bound: (x.double() < bound).double()) for bound in bounds),
    ]
    scores = []
    for statistic in statistics:
        one, other = statistic(draws), statistic(known)
        error = variance_of_mean(one) + variance_of_mean(other)
        scores.append((one.mean((0, 1)) - other.mean((0, 1))) / error.sqrt())
    z = torch.stack(scores).abs()
    return z.max().item(), z.numel()


def expected_largest(count: int) -> float:
    """Return the median of the largest size of so many independent normal numbers."""
    level = torch.tensor((1 + 0.5 ** (1 / count)) / 2, dtype=torch.float64)
    return torch.special.ndtri(level).item()


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    head = "| task | chains | library | effective draws a second | a gradient | gradients a draw "
    head += "| draws | warm-up | compilation | R-hat | worst z | expected |"
    rule = "|" + "---|" * 12
    return "\n".join([head, rule, *map(line, rows)]) + "\n"


def line(row: dict[str, Any]) -> str:
    return (
        f"| {row['task']} | {row['chains']} | {row['library']} "
        f"| {row['effective a second']:,.0f} | {row['effective a gradient']:.3f} "
        f"| {row['gradients a draw']:.1f} | {row['seconds']:.2f} s | {row['warm-up']:.1f} s "
        f"| {row['compilation']:.0f} s | {row['r hat']:.3f} | {row['worst z']:.1f} "
        f"| {row['expected']:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--chains", nargs="+", type=int, choices=CHAINS, default=CHAINS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name in options.tasks:
        task = TASKS[name]()
        found = []
        for chains in options.chains:
            for library in (Ours, BlackJax, NumPyro):
                row, draws = measured(library, task, chains)
                found.append(({"task": name, **row}, draws))
                print(row, flush=True)
        known = reference(task)
        for row, draws in found:
            row["worst z"], row["statistics"] = worst_z(draws, known)
            row["expected"] = expected_largest(row["statistics"])
            rows.append(row)
        print(table(rows), flush=True)
        if options.out:
            facts = {"commit": commit(), "machine": processor(), "rows": rows}
            options.out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
            options.out.with_suffix(".md").write_text(table(rows))


if __name__ == "__main__":
    main()
