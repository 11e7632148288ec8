"""Gradients through the run of a sampler."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from problems import generator
from sampler_problems import GAUSSIAN, mala
from torch import Tensor, nn

from ebrl import Energy, Sampler
from ebrl.kernels import (
    GHMC,
    HMC,
    MALA,
    SVGD,
    ULA,
    GradientDescent,
    Kernel,
    Underdamped,
)
from ebrl.networks import MLPEnergy
from ebrl.spaces import (
    Affine,
    Box,
    HalfLine,
    Space,
)


class Quartic(Energy):
    """`a x⁴ / 4 + x² / 2` with a to be learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (self.a * x.pow(4) / 4 + x.square() / 2).sum(-1)


def loss_after(sampler: Sampler, energy: Energy, x: Tensor, gradient: str) -> Tensor:
    samples = sampler.sample(energy, x, generator=generator(), gradient=gradient)
    return samples.x.sin().sum() + samples.energy.sum()


@pytest.mark.parametrize(
    "space",
    [
        None,
        Box(-2.0, 2.0, "tanh"),
        Box(-2.0, 2.0, "reflect"),
        HalfLine(2, -2.0),
        Affine(torch.zeros(2).double(), torch.tensor([[1.0, 0.5], [0.5, 2.0]]).double()),
    ],
    ids=["R", "tanh", "reflect", "half-line", "affine"],
)
@pytest.mark.parametrize(
    "kernel",
    [ULA(), MALA(), HMC(3), GHMC(2), Underdamped(), SVGD(), GradientDescent(0.5)],
    ids=["ULA", "MALA", "HMC", "GHMC", "Underdamped", "SVGD", "GradientDescent"],
)
def test_unrolled_gradients_are_finite_differences(kernel: Kernel, space: Space | None) -> None:
    sampler = Sampler(kernel, space=space, steps=4, step_size=0.1, temperature=0.5)
    energy = Quartic()
    x = torch.randn(6, 2, generator=generator(9), dtype=torch.float64).clamp(-1.9, 1.9)
    x.requires_grad_()
    loss_after(sampler, energy, x, "unroll").backward()
    # Central differences: the error is of order step², rounding of order 1e-16 / step.
    step = 1e-5

    def difference(nudge: Callable[[float], None]) -> float:
        losses = []
        for sign in (1, -2):
            nudge(sign * step)
            with torch.no_grad():
                losses.append(loss_after(sampler, energy, x, "none").item())
        nudge(step)
        return (losses[0] - losses[1]) / (2 * step)

    assert energy.a.grad.item() == pytest.approx(
        difference(lambda change: energy.a.data.add_(change)), rel=1e-5, abs=1e-7
    )
    assert x.grad[2, 1].item() == pytest.approx(
        difference(lambda change: x.data[2, 1].add_(change)), rel=1e-5, abs=1e-7
    )


def test_the_last_step_alone_has_a_graph() -> None:
    energy, x = Quartic(), torch.randn(6, 2, generator=generator(9), dtype=torch.float64)
    x.requires_grad_()
    sampler = Sampler(ULA(), steps=4, step_size=0.1)
    samples = sampler.sample(energy, x, generator=generator(), gradient="last")
    plain = sampler.sample(energy, x, generator=generator())
    torch.testing.assert_close(samples.x.detach(), plain.x)
    samples.x.sum().backward()
    before = Sampler(ULA(), steps=3, step_size=0.1).sample(energy, x, generator=generator()).x
    # x' = x - η (a x³ + x) + noise: dx'/da = -η x³.
    torch.testing.assert_close(energy.a.grad, -0.1 * before.pow(3).sum())
    assert x.grad is None


@pytest.mark.parametrize("gradient", ["none", "last", "unroll"])
def test_the_report_is_of_all_steps(gradient: str) -> None:
    stepped = mala(4, step_size=0.8)
    plain = stepped.sample(GAUSSIAN, torch.zeros(9, 2), generator=generator())
    samples = stepped.sample(GAUSSIAN, torch.zeros(9, 2), generator=generator(), gradient=gradient)
    torch.testing.assert_close(samples.info.acceptance, plain.info.acceptance)
    nothing = mala(0).sample(GAUSSIAN, torch.ones(9, 2), generator=generator(), gradient=gradient)
    assert torch.equal(nothing.x, torch.ones(9, 2))


def test_networks_with_gradients_of_their_own_are_unrolled_by_autograd() -> None:
    network = MLPEnergy(2, (8, 8)).double()
    sampler = Sampler(ULA(), steps=3, step_size=0.1)
    x = torch.zeros(5, 2, dtype=torch.float64)
    loss_after(sampler, network, x, "unroll").backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert network.layers[0].weight.grad.abs().max() > 0


def test_the_graph_of_an_unrolled_run_is_freed() -> None:
    energy, seen = Quartic(), []
    energy.register_forward_pre_hook(lambda module, inputs: seen.append(weakref.ref(inputs[0])))
    x = torch.zeros(5, 2, dtype=torch.float64)
    loss = loss_after(Sampler(ULA(), steps=4, step_size=0.01), energy, x, "unroll")
    kept = [place() for place in seen]
    assert all(place is not None for place in kept)
    del kept
    loss.backward()
    del loss, x
    assert [place() for place in seen] == [None] * 5
