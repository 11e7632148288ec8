"""Samplers and estimators of other libraries, as `calibration.py` runs them.

Each is `(energy, x, step_size, steps, seed) -> x` on an energy without a temperature of its own:
`E/T` is handed over. Libraries are imported when they run; `INSTALLED` says which can.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Energy, Gaussian

LEAPFROGS = 5
MODULES = {"torchebm": "torchebm", "ebmkit": "ebm", "blackjax": "blackjax"}
INSTALLED = {name: version(name) for name, module in MODULES.items() if find_spec(module)}
MISSING = [name for name in MODULES if name not in INSTALLED]


class Run(NamedTuple):
    """Where chains ended, and the gradients that each of them took by its own report, if any."""

    x: Tensor  # (chains, d)
    gradients: float | None = None


class Peer(NamedTuple):
    """A sampler of another library; `kind` is the kernel of ours that it stands beside."""

    library: str
    kind: str
    run: Callable[[Energy, Tensor, float, int, int], Run]


def _torchebm(kind: str) -> Callable[[Energy, Tensor, float, int, int], Run]:
    def run(energy: Energy, x: Tensor, step_size: float, steps: int, seed: int) -> Run:
        from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics

        model = torchebm_model(energy)
        if kind == "ULA":
            sampler = LangevinDynamics(model, step_size=step_size, device="cpu")
        else:
            sampler = HamiltonianMonteCarlo(
                model, step_size=step_size, n_leapfrog_steps=LEAPFROGS, device="cpu"
            )
        generator = torch.Generator().manual_seed(seed)
        return Run(sampler.sample(x.clone(), n_steps=steps, generator=generator))

    return run


def torchebm_model(energy: Energy) -> Any:
    from torchebm.core import BaseModel

    class Model(BaseModel):
        def forward(self, x: Tensor) -> Tensor:
            return energy(x)

    return Model()


def torchebm_clamped(energy: Energy, x: Tensor, step_size: float, steps: int, seed: int) -> Run:
    """ULA on [-1, 1]."""
    from torchebm.samplers import LangevinDynamics

    model, bounds = torchebm_model(energy), (-1.0, 1.0)
    sampler = LangevinDynamics(model, step_size=step_size, clamp=bounds, device="cpu")
    generator = torch.Generator().manual_seed(seed)
    return Run(sampler.sample(x.clone(), n_steps=steps, generator=generator))


def ebmkit_clamped(energy: Energy, x: Tensor, step_size: float, steps: int, seed: int) -> Run:
    """ULA on [-1, 1]."""
    import ebm

    torch.manual_seed(seed)  # the library's only stream
    return Run(ebm.LangevinDynamics(step_size, steps, clamp=(-1.0, 1.0)).sample(energy, x))


def _ebmkit(kind: str) -> Callable[[Energy, Tensor, float, int, int], Run]:
    def run(energy: Energy, x: Tensor, step_size: float, steps: int, seed: int) -> Run:
        import ebm

        torch.manual_seed(seed)
        sampler = {
            "ULA": lambda: ebm.LangevinDynamics(step_size, steps),
            "MALA": lambda: ebm.MALA(step_size, steps),
            "HMC": lambda: ebm.HMC(step_size, LEAPFROGS, steps),
            "NUTS": lambda: ebm.NUTS(step_size, steps, warmup=0),
        }[kind]()
        return Run(sampler.sample(energy, x))

    return run


def _blackjax(kind: str) -> Callable[[Energy, Tensor, float, int, int], Run]:
    def run(energy: Energy, x: Tensor, step_size: float, steps: int, seed: int) -> Run:
        import blackjax
        import jax
        import jax.numpy as jnp

        law = _gaussian_of(energy)
        mean, deviation = jnp.asarray(law.mean.numpy()), jnp.asarray(law.deviation.numpy())

        def log_density(point: Any) -> Any:
            return -0.5 * (((point - mean) / deviation) ** 2).sum()

        unit = jnp.ones(x.shape[-1])
        kernel = {
            "MALA": lambda: blackjax.mala(log_density, step_size),
            "HMC": lambda: blackjax.hmc(log_density, step_size, unit, LEAPFROGS),
            "NUTS": lambda: blackjax.nuts(log_density, step_size, unit),
        }[kind]()

        def move(states: Any, key: Any) -> tuple[Any, Any]:
            keys = jax.random.split(key, len(x))
            states, info = jax.vmap(kernel.step)(keys, states)
            return states, getattr(info, "num_integration_steps", jnp.ones(1)).mean()

        @jax.jit
        def chain(start: Any, key: Any) -> tuple[Any, Any]:
            states = jax.vmap(kernel.init)(start)
            return jax.lax.scan(move, states, jax.random.split(key, steps))

        states, gradients = chain(jnp.asarray(x.numpy()), jax.random.key(seed))
        ended = torch.from_numpy(jax.device_get(states.position).copy())
        return Run(ended, 1 + float(gradients.sum()))

    return run


def _gaussian_of(energy: Energy) -> Gaussian:
    """Return the Gaussian that is wrapped; a jitted chain cannot call torch."""
    while not isinstance(energy, Gaussian):
        energy = energy.energy
    return energy


PEERS = [
    *(Peer("torchebm", kind, _torchebm(kind)) for kind in ("ULA", "HMC")),
    *(Peer("ebmkit", kind, _ebmkit(kind)) for kind in ("ULA", "MALA", "HMC", "NUTS")),
    *(Peer("blackjax", kind, _blackjax(kind)) for kind in ("MALA", "HMC", "NUTS")),
]
CLAMPED = [Peer("torchebm", "ULA", torchebm_clamped), Peer("ebmkit", "ULA", ebmkit_clamped)]


def installed(peers: list[Peer]) -> list[Peer]:
    return [peer for peer in peers if peer.library in INSTALLED]


class Estimate(NamedTuple):
    """A log normalizer and its standard error."""

    value: float
    standard_error: float


def ebmkit_bounds(
    energy: Energy, samples: Tensor, rungs: int, seed: int
) -> tuple[Estimate, Estimate]:
    """Return annealed importance sampling and its reverse from samples, with as many chains.

    MALA, the library's own adaptation and base N(0, 1).
    """
    import ebm

    torch.manual_seed(seed)
    both = (
        ebm.ais_log_z(
            energy, samples.shape[1:], n_temps=rungs, n_chains=len(samples), sampler=ebm.MALA(0.1)
        ),
        ebm.reverse_ais_log_z(energy, samples, n_temps=rungs, sampler=ebm.MALA(0.1)),
    )
    below, above = (Estimate(each.log_z, each.stderr) for each in both)
    return below, above
