"""Repulsion: one joint energy of coupled chains."""

from __future__ import annotations

import pytest
import torch
from problems import generator
from torch import Tensor

from ebrl import Gaussian, Mixture, Repulsion, Sampler
from ebrl.kernels import ULA, GradientDescent


def points(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(), dtype=torch.float64)


def test_the_energies_of_all_chains_add_up_to_that_of_the_pairs() -> None:
    x = points(4, 6, 2)  # four batches that do not see each other
    value = Repulsion(0.8)(x)
    pairs = torch.cdist(x, x).square().div(-2 * 0.8**2).exp().triu(1).sum((-2, -1))
    assert value.shape == (4, 6)
    torch.testing.assert_close(value.sum(-1), pairs / 5)
    torch.testing.assert_close(Repulsion(0.8)(x[2]), value[2])


def test_the_gradient_is_that_of_the_joint_energy() -> None:
    x = points(3, 6, 2)
    value, gradient = Repulsion(0.8).value_and_gradient(x)
    expected = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(Repulsion(0.8)(expected).sum(), expected)
    torch.testing.assert_close(gradient, slope)
    torch.testing.assert_close(value, Repulsion(0.8)(x))
    assert value.grad_fn is None
    far = Repulsion(0.8).value_and_gradient(x.float() + 1000)[1].double()
    torch.testing.assert_close(far, gradient, rtol=1e-2, atol=1e-3)
    images = x.unflatten(-1, (1, 1, 2))
    pixels = Repulsion(0.8, event_ndim=3).value_and_gradient(images)[1]
    torch.testing.assert_close(pixels.flatten(-3), gradient)


def test_one_chain_alone_is_not_pushed() -> None:
    value, gradient = Repulsion(1.0).value_and_gradient(points(1, 2))
    assert value == 0
    assert (gradient == 0).all()


def test_chains_that_repel_spread_out() -> None:
    # Two coupled chains, E = (x² + y²)/2 + 4 exp(-(x-y)²/2): x + y is N(0, 2) as without it.
    energy = Gaussian(0.0, 1.0, 1) + 4 * Repulsion(1.0)
    x = points(4000, 2, 1)
    together = Sampler(ULA(), steps=300, step_size=0.02).sample(energy, x, generator=generator(1)).x
    total, apart = together.sum(-2), together.diff(dim=-2)
    assert total.var().item() == pytest.approx(2, rel=0.1)
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    law = (-grid.square() / 4 - 4 * (-grid.square() / 2).exp()).exp()
    assert apart.var().item() == pytest.approx(
        float((law * grid.square()).sum() / law.sum()), rel=0.05
    )
    modes = Sampler(GradientDescent(), steps=400, step_size=0.1).sample(
        energy, points(1, 2, 1), generator=generator()
    )
    assert modes.x.diff(dim=-2).abs() > 1


def test_compositions_declare_that_they_couple_chains() -> None:
    free, coupled = Gaussian(0.0, 1.0, 2), Repulsion(1.0)
    for energy in (free, free + free, -free):
        assert not energy.couples_chains
    for energy in (coupled, free + coupled, -coupled, (free + coupled / 2) * 3):
        assert energy.couples_chains
    assert Mixture([free, coupled], [1, 1]).couples_chains


def test_impossible_repulsion_is_refused() -> None:
    with pytest.raises(ValueError, match="positive bandwidth"):
        Repulsion(0.0)
    with pytest.raises(ValueError, match="expected a batch axis to couple"):
        Repulsion(1.0)(points(2))
