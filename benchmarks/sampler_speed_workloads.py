"""The workloads of `sampler_speed.py`: energies for us, for torchebm and for JAX, and a start."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Conv2d

from ebrl.energies import Energy, GaussianMixture
from ebrl.networks import ConvEnergy, MLPEnergy
from ebrl.networks.perceptron import Reduction

OBSERVATION, ACTION = 17, 6


class Workload(NamedTuple):
    """An energy for us, the same for torchebm and for jax (without batch), and where to start."""

    about: str
    ours: Callable[[], Energy]  # bound anew at each run, as a caller does
    torch_energy: Callable[[Tensor], Tensor]
    jax_energy: Callable[[Any, Any], Any]  # (x of one chain, its condition) -> number
    x: Tensor
    conditions: Tensor | None  # one for each chain
    steps: int
    eager_target: float
    compiled_target: float | None
    acts: bool = False  # by MALA in a tanh box, rather than ULA


def member(network: MLPEnergy, i: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the matrices and biases `(1, outputs)` of one member over (observation, action)."""
    weights = network.plain_weights()
    condition = network.condition_layer
    assert weights is not None
    assert condition is not None
    layers = [*weights.hidden, weights.head]
    seen, bias = condition.weight, condition.bias
    seen, bias = (seen.mT, bias.unsqueeze(0)) if network.members == 1 else (seen[i], bias[i])
    matrices = [torch.cat([seen, weights.first[i]]), *(layer.weight[i] for layer in layers)]
    biases = [bias, *(layer.bias[i] for layer in layers)]
    return [each.detach() for each in matrices], [each.detach() for each in biases]


def critics(
    rows: int,
    particles: int,
    members: int,
    targets: tuple[float, float | None],
    reduction: Reduction = "max",
) -> Workload:
    """Return a workload on MLPs of (observation, action), several members reduced to one energy."""
    network = MLPEnergy(ACTION, condition_dimension=OBSERVATION, members=members)
    observations = torch.randn(rows, OBSERVATION)
    repeated = observations.repeat_interleave(particles, 0)
    nets = [member(network, i) for i in range(members)]

    def torch_energy(x: Tensor) -> Tensor:
        values = []
        for weights, biases in nets:
            h = torch.cat([repeated, x], -1)
            for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
                h = torch.nn.functional.silu(torch.addmm(bias, h, weight))
            values.append(torch.addmm(biases[-1], h, weights[-1]).squeeze(-1))
        return values[0] if members == 1 else torch.maximum(*values)

    def jax_energy(x: Any, observation: Any) -> Any:
        import jax
        import jax.numpy as jnp

        values = []
        for weights, biases in nets:
            h = jnp.concatenate([observation, x], -1)
            for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
                h = jax.nn.silu(h @ weight.cpu().numpy() + bias[0].cpu().numpy())
            values.append((h @ weights[-1].cpu().numpy() + biases[-1][0].cpu().numpy())[0])
        return values[0] if members == 1 else jnp.maximum(*values)

    def ours() -> Energy:
        return network.given(observations, reduction)

    twins = ", the larger of twins" if members > 1 else ""
    about = f"{rows} x {particles} actions of {ACTION}, MLP 256x256{twins}, 20 steps"
    x = torch.randn(rows, particles, ACTION)
    return Workload(about, ours, torch_energy, jax_energy, x, repeated, 20, *targets)


def mixture() -> Workload:
    angles = torch.arange(8) * (2 * math.pi / 8)
    means = 4 * torch.stack([angles.cos(), angles.sin()], -1)
    energy = GaussianMixture(means, 0.5)

    def torch_energy(x: Tensor) -> Tensor:
        return -torch.logsumexp(-(x.unsqueeze(1) - means).square().sum(-1) / 0.5, 1)

    def jax_energy(x: Any, _: Any) -> Any:
        import jax

        return -jax.nn.logsumexp(-((x - means.cpu().numpy()) ** 2).sum(-1) / 0.5)

    about = "10,000 chains on 8 Gaussians in the plane, 1,000 steps"
    x = torch.randn(10_000, 2)
    return Workload(about, lambda: energy, torch_energy, jax_energy, x, None, 1000, 0.57, 0.05)


def images() -> Workload:
    energy = ConvEnergy(1, (32, 64, 64))
    plain = deepcopy(energy).to(memory_format=torch.contiguous_format)  # as nn.Conv2d makes them

    def torch_energy(x: Tensor) -> Tensor:
        return plain(x)

    def jax_energy(x: Any, _: Any) -> Any:
        import jax

        h, convolutions = x[None], [part for part in energy.modules() if isinstance(part, Conv2d)]
        for part in sorted(convolutions, key=lambda part: part is energy.head):
            weight, bias = part.weight.detach().cpu().numpy(), part.bias.detach().cpu().numpy()
            pads = [(pad, pad) for pad in part.padding]
            h = jax.lax.conv_general_dilated(h, weight, part.stride, pads) + bias[:, None, None]
            h = h if part is energy.head else jax.nn.silu(h)
        return h.sum()

    about = "64 images 1x28x28, three convolutions (32, 64, 64), 60 steps"
    x = torch.randn(64, 1, 28, 28)
    return Workload(about, lambda: energy, torch_energy, jax_energy, x, None, 60, 0.80, None)


def acting(candidates: int) -> Workload:
    """Return an agent's choice of one action: twin critics, their mean, two moves in a tanh box.

    Stable-Baselines3's rival is `predict` of a SAC of the same sizes.
    """
    work = critics(1, candidates, 2, (math.nan, None), "mean")
    about = (
        f"1 x {candidates} actions of {ACTION} by MALA in a tanh box, twins, their mean, 2 steps"
    )
    return work._replace(about=about, x=torch.tanh(work.x), steps=2, acts=True)


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "W1": lambda: critics(1, 32, 1, (0.33, 0.27)),
    "W2": lambda: critics(256, 16, 1, (0.70, 0.40)),
    "W2t": lambda: critics(256, 16, 2, (0.72, 0.50)),
    "W3": mixture,
    "W4": images,
    "act1": partial(acting, 1),
    "act4": partial(acting, 4),
    "act16": partial(acting, 16),
}
