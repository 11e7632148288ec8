"""Image energies: shapes and sizes, and classifiers read as energies."""

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
)


def conv(**arguments: object) -> ConvEnergy:
    torch.manual_seed(0)
    return ConvEnergy(2, (8, 12), **arguments).double()


def images(*batch: int, size: tuple[int, int] = (9, 6)) -> Tensor:
    return torch.randn(*batch, 2, *size, generator=generator(), dtype=torch.float64)


@pytest.mark.parametrize("batch", [(), (3,), (3, 2)], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (16, 16)], ids=str)
def test_one_number_for_each_image_of_any_size(
    batch: tuple[int, ...], size: tuple[int, int]
) -> None:
    energy, x = conv(), images(*batch, size=size)
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


def test_second_derivatives_exist() -> None:
    # Score matching differentiates the gradient by the weights: piecewise linear nets would fail.
    energy, x = conv(), images(2).requires_grad_()
    (gradient,) = torch.autograd.grad(energy(x).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(
        p.grad is not None for name, p in energy.named_parameters() if "head.bias" not in name
    )


def test_images_of_another_shape_are_refused() -> None:
    for x in (torch.zeros(3, 1, 4, 4), torch.zeros(4, 4)):
        with pytest.raises(ValueError, match=r"expected x of shape \(\*batch, 2, height, width\)"):
            conv()(x)
    with pytest.raises(TypeError, match="takes no condition"):
        conv().given(torch.ones(3))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConvEnergy(0),
        lambda: ConvEnergy(1, ()),
        lambda: ConvEnergy(1, (8, 0)),
    ],
)
def test_impossible_networks_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"expected .* got"):
        make()


def test_a_network_learns_to_tell_bright_from_dark() -> None:
    energy = conv()
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
    assert energy.given(label).to("meta").label.is_meta  # labels go where the weights go


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
