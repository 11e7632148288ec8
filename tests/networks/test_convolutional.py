"""Image energies: shapes, sizes, noise levels, and classifiers read as energies."""

from __future__ import annotations

import pytest
import torch
from problems import generator
from torch import Tensor, nn

from ebrl import (
    ClassifierEnergy,
    ConvEnergy,
    Energy,
    FunctionEnergy,
    Gaussian,
    ResNetEnergy,
    Sampler,
)
from ebrl.energies import first_order
from ebrl.kernels import MALA
from ebrl.spaces import Unbounded


def conv(**arguments: object) -> ConvEnergy:
    torch.manual_seed(0)
    return ConvEnergy(2, (8, 12), **arguments).double()


def resnet(**arguments: object) -> ResNetEnergy:
    torch.manual_seed(0)
    return ResNetEnergy(2, (8, 12), blocks=1, **arguments).double()


def images(*batch: int, size: tuple[int, int] = (9, 6)) -> Tensor:
    return torch.randn(*batch, 2, *size, generator=generator(), dtype=torch.float64)


every_network = pytest.mark.parametrize("make", [conv, resnet])


@every_network
@pytest.mark.parametrize("batch", [(), (3,), (3, 2)], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (16, 16)], ids=str)
def test_one_number_for_each_image_of_any_size(
    make: object, batch: tuple[int, ...], size: tuple[int, int]
) -> None:
    energy, x = make(), images(*batch, size=size)
    value, gradient = energy.value_and_gradient(x)
    assert value.shape == batch
    assert gradient.shape == x.shape
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, energy(x))
    rows = x.reshape(-1, 2, *size)
    torch.testing.assert_close(value.flatten(), torch.cat([energy(row[None]) for row in rows]))
    step = 1e-6 * torch.ones_like(x)
    slope = (energy(x + step) - energy(x - step)) / 2e-6
    torch.testing.assert_close(slope, gradient.sum((-3, -2, -1)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("activation", [nn.SiLU, nn.ReLU, nn.Tanh, nn.Softplus])
def test_gradients_by_hand_are_those_of_autograd(activation: type[nn.Module]) -> None:
    energy, x = conv(activation=activation), images(3, 2)
    for shift in (0.0, 0.5):  # the second call uses the first's memory again
        at = (x + shift).requires_grad_()
        value, gradient = energy.value_and_gradient(at)
        torch.testing.assert_close(value, energy(at).detach())
        torch.testing.assert_close(gradient, torch.autograd.grad(energy(at).sum(), at)[0])
        assert not value.requires_grad
        assert not gradient.requires_grad
    first = gradient.clone()
    energy.value_and_gradient(x)
    assert torch.equal(gradient, first)


@every_network
def test_second_derivatives_exist(make: object) -> None:
    # Score matching differentiates the gradient by the weights: piecewise linear nets would fail.
    energy, x = make(), images(2).requires_grad_()
    (gradient,) = torch.autograd.grad(energy(x).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(
        p.grad is not None for name, p in energy.named_parameters() if "head.bias" not in name
    )


@every_network
def test_a_noise_level_for_each_image_is_aligned_from_the_left(make: object) -> None:
    energy, x = make(noise_conditional=True), images(3, 3)
    sigma = torch.tensor([0.05, 0.5, 5.0])
    given = energy.given(sigma)
    value = given(x)
    for b in range(3):
        alone = energy.given(sigma[b])(x[b])
        torch.testing.assert_close(value[b], alone)
        for m in range(3):
            torch.testing.assert_close(energy.given(sigma[b : b + 1])(x[b, m]), alone[m])
    each = energy.given(sigma[:, None].expand(3, 3))
    torch.testing.assert_close(each(x), value)
    torch.testing.assert_close(given.value_and_gradient(x)[0], value)


@every_network
def test_the_noise_level_is_used_and_the_score_scales_with_it(make: object) -> None:
    energy, x = make(noise_conditional=True), images(8)
    sigmas = torch.tensor([0.01, 0.1, 1.0, 10.0])
    gradients = [energy.given(s).value_and_gradient(x * (0.25 + s**2) ** 0.5)[1] for s in sigmas]
    sizes = torch.stack([g.norm() for g in gradients]).float() * sigmas
    assert sizes.max() < 3 * sizes.min()  # σ times the score is of one order at every level
    near = energy.given(torch.tensor(0.4))(x)
    assert not torch.allclose(near, energy.given(torch.tensor(0.5))(x), rtol=1e-3)


def test_a_noisy_energy_shows_its_parameters_and_composes() -> None:
    energy = conv(noise_conditional=True)
    prior = energy + FunctionEnergy(lambda x: x.square().sum((-3, -2, -1)), event_ndim=3)
    sigma, x = torch.tensor([0.1, 0.2]), images(2)
    given = prior.given(sigma)
    assert set(energy.parameters()) <= set(given.parameters())
    expected = energy.given(sigma)(x) + x.square().sum((-3, -2, -1))
    torch.testing.assert_close(given(x), expected)
    samples = Sampler(MALA(), Unbounded(2, 9, 6), steps=2, step_size=1e-3).sample(
        given, x, generator=generator()
    )
    assert samples.x.shape == x.shape
    assert all(parameter.requires_grad for parameter in energy.parameters())
    assert first_order(given, x.requires_grad_()).requires_grad


def test_noise_levels_of_the_wrong_kind_are_refused() -> None:
    energy, x = conv(noise_conditional=True), images(3)
    with pytest.raises(TypeError, match=r"call energy.given\(sigma\) first"):
        energy(x)
    with pytest.raises(TypeError, match="takes no condition"):
        conv().given(torch.ones(3))
    with pytest.raises(ValueError, match="noise level for each of the leading batch axes"):
        energy.given(torch.ones(2))(x)
    with pytest.raises(ValueError, match=r"expected x of shape \(\*batch, 2, height, width\)"):
        conv()(torch.zeros(3, 1, 4, 4))
    with pytest.raises(ValueError, match=r"expected x of shape \(\*batch, 2, height, width\)"):
        conv()(torch.zeros(4, 4))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConvEnergy(0),
        lambda: ConvEnergy(1, ()),
        lambda: ConvEnergy(1, (8, 0)),
        lambda: ConvEnergy(1, (8,), data_deviation=0.0),
        lambda: ResNetEnergy(3, (8,), blocks=0),
    ],
)
def test_impossible_networks_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"expected .* got"):
        make()


@every_network
def test_a_network_learns_to_tell_bright_from_dark(make: object) -> None:
    energy = make()
    dark, bright = 0.3 * images(64, size=(6, 6)) - 0.5, 0.3 * images(64, size=(6, 6)) + 0.5
    optimizer = torch.optim.Adam(energy.parameters(), 1e-3)
    for _ in range(30):
        margin = energy(bright) - energy(dark)
        optimizer.zero_grad()
        nn.functional.softplus(margin).mean().backward()
        optimizer.step()
    assert (energy(bright) < energy(dark)).double().mean() > 0.98


# Classifiers.


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 9 * 6, 5)).double()


def test_a_classifier_is_the_energy_of_its_logits() -> None:
    network, x = classifier(), images(3, 4)
    energy = ClassifierEnergy(network)
    logits = network(x.flatten(0, 1)).view(3, 4, 5)
    torch.testing.assert_close(energy(x), -logits.logsumexp(-1))
    joint = torch.stack([energy.given(torch.tensor(y))(x) for y in range(5)], -1)
    torch.testing.assert_close(joint, -logits)
    # Labels summed out of exp(-E(x, y)) give exp(-E(x)), and p(y|x) is the classifier's.
    torch.testing.assert_close(-joint.neg().logsumexp(-1), energy(x))
    torch.testing.assert_close((energy(x).unsqueeze(-1) - joint).exp(), logits.softmax(-1))


def test_labels_are_aligned_from_the_left_and_reach_through_the_algebra() -> None:
    energy, x, label = ClassifierEnergy(classifier()), images(3, 4), torch.tensor([4, 0, 2])
    value = energy.given(label)(x)
    for b in range(3):
        torch.testing.assert_close(value[b], energy.given(label[b])(x[b]))
    both = (energy + FunctionEnergy(lambda x: x.sum((-3, -2, -1)), event_ndim=3)).given(label)
    torch.testing.assert_close(both(x), value + x.sum((-3, -2, -1)))
    assert list(both.parameters()) == list(energy.parameters())


def test_guidance_is_algebra() -> None:
    energy, x, label, weight = ClassifierEnergy(classifier()), images(3), torch.arange(3), 2.5
    guided = (1 - weight) * energy + weight * energy.given(label)
    expected = energy(x) + weight * (energy.given(label)(x) - energy(x))
    torch.testing.assert_close(guided(x), expected)
    slope = x.clone().requires_grad_()
    (expected_gradient,) = torch.autograd.grad(guided(slope).sum(), slope)
    torch.testing.assert_close(guided.value_and_gradient(x)[1], expected_gradient)
    assert set(guided.parameters()) == set(energy.parameters())


def test_labels_and_logits_of_the_wrong_kind_are_refused() -> None:
    energy = ClassifierEnergy(classifier())
    with pytest.raises(ValueError, match=r"integer type, got torch.float32"):
        energy.given(torch.ones(3))
    with pytest.raises(ValueError, match="a label for each of the leading batch axes"):
        energy.given(torch.tensor([0, 1]))(images(3))
    flat: Energy = ClassifierEnergy(Gaussian(0.0, 1.0, 2), event_ndim=1)
    with pytest.raises(ValueError, match=r"logits of shape \(3, classes\), got \(3,\)"):
        flat(torch.zeros(3, 2))
