"""Half-lines, the simplex, the torus and affine coordinates, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from problems import generator
from torch import Tensor

from ebrl import FunctionEnergy, Gaussian, Sampler
from ebrl.kernels import HMC, MALA, NUTS
from ebrl.spaces import Affine, HalfLine, Simplex, Space, Torus

COVARIANCE = torch.tensor([[4.0, 1.9], [1.9, 1.0]])
SPACES = {
    "half-line": HalfLine(3, low=-1.0),
    "one scale of three": HalfLine(3, torch.tensor([-math.inf, 0.5, -math.inf])),
    "simplex": Simplex(4),
    "torus": Torus(2),
    "affine": Affine(torch.tensor([1.0, -2.0]), COVARIANCE),
}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


@every_space
def test_free_coordinates_go_there_and_back(space: Space) -> None:
    x = space.reference((50,), generator()).double()
    assert space.contains(x).all()
    torch.testing.assert_close(space.from_free(space.to_free(x)), x)


@every_space
def test_the_slope_is_the_jacobian(space: Space) -> None:
    free = space.to_free(space.reference((20,), generator()).double())
    slope = space.log_det_jacobian(free)
    for row, u in enumerate(free):
        jacobian = torch.func.jacrev(space.from_free)(u)[: len(u)]  # of a simplex, all but the last
        found = slope[row] if isinstance(slope, Tensor) else torch.tensor(slope).double()
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], found.double())


@every_space
def test_gradients_of_free_coordinates_are_those_of_autograd(space: Space) -> None:
    energy = FunctionEnergy(lambda x: (x - 0.3).pow(2).sum(-1))
    free = space.to_free(space.reference((20,), generator()).double()).requires_grad_()
    inner = space.free(energy, 0.7, 0.1)
    expected = inner(free)
    value, gradient = inner.value_and_gradient(free)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), free)[0])


def test_free_coordinates_of_a_half_line_may_be_far_away() -> None:
    space = HalfLine(2, torch.tensor([-math.inf, 0.0]))
    energy = FunctionEnergy(lambda x: (x[:, 0] - 1e4).square() / 2 + x[:, 1])
    value, gradient = space.free(energy, 1.0, 0.1).value_and_gradient(torch.tensor([[1e4, 0.0]]))
    assert gradient.tolist() == [[0.0, 0.0]]
    assert value.item() == pytest.approx(1.0)
    x = space.reference((4000,), generator())
    assert x[:, 0].min() < -2
    assert x[:, 1].min() > 0
    with pytest.raises(ValueError, match="bounds below infinity for 2 coordinates"):
        HalfLine(2, torch.zeros(3))


def test_an_exponential_at_another_temperature() -> None:
    energy = FunctionEnergy(lambda x: x.sum(-1))
    sampler = Sampler(MALA(), HalfLine(1), steps=100, step_size=0.3, temperature=0.5)
    samples = sampler.sample(energy, n=4000, generator=generator())
    assert samples.x.mean().item() == pytest.approx(0.5, abs=4 * 0.5 / 4000**0.5)
    torch.testing.assert_close(samples.energy, energy(samples.x), rtol=1e-4, atol=1e-5)


def test_a_dirichlet_has_its_mean() -> None:
    concentration = torch.tensor([1.0, 2.0, 5.0])
    energy = FunctionEnergy(lambda x: -((concentration - 1) * x.log()).sum(-1))
    sampler = Sampler(HMC(5), Simplex(3), steps=60, step_size=0.3)
    x = sampler.sample(energy, n=4000, generator=generator()).x
    mean = concentration / 8
    error = (mean * (1 - mean) / 9 / 4000).sqrt()
    assert ((x.mean(0) - mean).abs() < 4 * error).all()


def test_a_von_mises_has_its_resultant_length() -> None:
    energy = FunctionEnergy(lambda x: -2 * torch.cos(x - 6.0).sum(-1))  # its mode is at the seam
    samples = Sampler(MALA(), Torus(1), steps=100, step_size=0.3).sample(
        energy, n=4000, generator=generator()
    )
    length = torch.special.i1(torch.tensor(2.0)) / torch.special.i0(torch.tensor(2.0))
    assert torch.cos(samples.x - 6.0).mean().item() == pytest.approx(length.item(), abs=0.04)
    assert ((samples.x >= 0) & (samples.x <= 2 * math.pi)).all()


def test_affine_coordinates_make_a_narrow_gaussian_round() -> None:
    space = SPACES["affine"]
    precision = COVARIANCE.inverse()
    centre = torch.tensor([1.0, -2.0])
    energy = FunctionEnergy(lambda x: ((x - centre) @ precision * (x - centre)).sum(-1) / 2)
    # In u the energy is that of a standard normal, of which one MALA step is known to be large.
    free = space.free(energy, 1.0, 0.1)
    u = torch.randn(10, 2, generator=generator())
    torch.testing.assert_close(free.value_and_gradient(u)[1], u, rtol=1e-3, atol=1e-3)
    x = (
        Sampler(NUTS(), space, steps=5, step_size=0.8)
        .sample(energy, n=4000, generator=generator())
        .x
    )
    torch.testing.assert_close(x.T.cov(), COVARIANCE, rtol=0.1, atol=0.05)


def test_a_space_of_ones_own_reports_the_users_energy() -> None:
    class Cubed(Space):
        def to_free(self, x: Tensor) -> Tensor:
            return x.sign() * x.abs() ** (1 / 3)

        def from_free(self, free: Tensor) -> Tensor:
            return free**3

        def log_det_jacobian(self, free: Tensor) -> Tensor:
            return (3 * free.square()).log().sum(-1)

        def contains(self, x: Tensor) -> Tensor:
            return x.isfinite().all(-1)

    energy, x = Gaussian(0.0, 1.0, 1), torch.randn(500, 1, generator=generator())
    samples = Sampler(MALA(), Cubed(), steps=20, step_size=0.02).sample(
        energy, x, generator=generator()
    )
    torch.testing.assert_close(samples.energy, energy(samples.x), rtol=1e-3, atol=1e-3)


def test_impossible_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match="categories >= 2, got 1"):
        Simplex(1)
    with pytest.raises(ValueError, match="positive definite covariance"):
        Affine(torch.zeros(2), -torch.eye(2))
    with pytest.raises(ValueError, match="positive period, got -1"):
        Torus(2, -1.0)
