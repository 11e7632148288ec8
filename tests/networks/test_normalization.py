"""Normalised perceptrons: statistics, renormalisation, and folding into plain ones."""

from __future__ import annotations

import pytest
import torch
from problems import generator
from torch import Tensor, nn

from ebrl.energies import Energy
from ebrl.networks import MLPEnergy
from ebrl.networks.linear import weight_of
from ebrl.networks.normalization import BatchNormalization, LayerNormalization


def rows(*shape: int, seed: int = 0) -> Tensor:
    """Return rows whose features have other means and deviations."""
    features = torch.arange(1.0, shape[-1] + 1)
    return features * torch.randn(shape, generator=generator(seed)) - 2 * features


def trained(members: int, normalization: str | None, condition: int = 4) -> MLPEnergy:
    """Return an energy whose statistics and gains are far from their start."""
    torch.manual_seed(0)
    energy = MLPEnergy(
        3, (16, 8), condition_dimension=condition, members=members, activation=nn.SiLU,
        normalization=normalization,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in energy.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for k in range(30):
            bound = (
                energy.given(rows(64, condition, seed=k)) if condition else energy.unconditional()
            )
            bound.batch_values(rows(64, 3, seed=100 + k))
    return energy.eval()


# ---- folding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", [0, 4])
@pytest.mark.parametrize("members", [1, 2])
def test_folded_it_is_the_unfolded_energy(members: int, condition: int) -> None:
    energy, x = trained(members, "batch", condition), rows(5, 7, 3)
    bound = energy.given(rows(5, condition), "max") if condition else energy.unconditional()
    folded = energy.folded_network()
    assert folded is not None
    assert folded.normalization is None
    value, gradient = bound.value_and_gradient(x)
    expected_value, expected_gradient = Energy.value_and_gradient(bound, x)  # unfolded, autograd
    with torch.no_grad():
        torch.testing.assert_close(bound(x), expected_value, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(value, expected_value, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_what_is_folded_follows_the_weights_and_the_statistics() -> None:
    energy, x = trained(2, "batch"), rows(5, 3)
    bound = energy.given(rows(5, 4))
    before = bound.value_and_gradient(x)[0]
    bound.batch_values(x)  # moves the running statistics
    moved = bound.value_and_gradient(x)[0]
    assert not torch.equal(moved, before)
    with torch.no_grad():
        energy.normalizations[1].weight.mul_(2)
    after = bound.value_and_gradient(x)[0]
    assert not torch.equal(after, moved)
    torch.testing.assert_close(after, bound(x).detach(), rtol=1e-5, atol=1e-5)


def test_nothing_of_what_is_folded_is_drawn_saved_or_trained() -> None:
    energy, bare = trained(2, "batch"), trained(2, "batch")
    state = torch.get_rng_state()
    energy.given(rows(5, 4)).value_and_gradient(rows(5, 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert list(energy.state_dict()) == list(bare.state_dict())
    assert len(list(energy.parameters())) == len(list(bare.parameters()))


def test_weights_put_under_the_parameters_are_folded_anew() -> None:
    energy, x = trained(2, "batch"), rows(5, 3)
    bound = energy.given(rows(5, 4))
    bound.value_and_gradient(x)
    vector = nn.utils.parameters_to_vector(energy.parameters())
    nn.utils.vector_to_parameters(1.1 * vector, energy.parameters())
    torch.testing.assert_close(bound.value_and_gradient(x)[0], bound(x).detach())


@pytest.mark.parametrize("change", ["hook", "parametrization"])
def test_layers_that_do_more_are_not_folded(change: str) -> None:
    energy, x = trained(2, "batch"), rows(5, 3)
    if change == "hook":
        energy.layers[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    else:
        nn.utils.parametrizations.weight_norm(energy.layers[1])
    assert energy.folded_network() is None
    bound = energy.given(rows(5, 4))
    torch.testing.assert_close(bound.value_and_gradient(x)[0], bound(x).detach())


def test_a_layer_normalised_energy_has_the_gradient_of_autograd() -> None:
    energy, x = trained(2, "layer"), rows(5, 3)
    bound = energy.given(rows(5, 4))
    assert energy.folded_network() is None
    value, gradient = bound.value_and_gradient(x)
    torch.testing.assert_close(value, bound(x).detach())
    assert gradient.shape == x.shape


@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
def test_a_scaled_energy_is_the_plain_one_times_the_scale(normalization: str | None) -> None:
    energy, x = trained(2, normalization), rows(5, 3)
    bound = energy.given(rows(5, 4))
    value, gradient = bound.value_and_gradient(x)
    energy.output_scale = torch.tensor(7.0)
    torch.testing.assert_close(bound(x).detach(), 7 * value, rtol=1e-5, atol=1e-4)
    for scale in (7.0, 0.5):  # the second is written in place
        energy.output_scale.fill_(scale)
        scaled = bound.value_and_gradient(x)
        torch.testing.assert_close(scaled, (scale * value, scale * gradient), rtol=1e-5, atol=1e-4)
    again = MLPEnergy(
        3, (16, 8), condition_dimension=4, members=2, activation=nn.SiLU,
        normalization=normalization,
    ).eval()  # fmt: skip
    again.load_state_dict(energy.state_dict())
    torch.testing.assert_close(again.given(rows(5, 4))(x), bound(x))


# ---- projected weights --------------------------------------------------------------------------


@pytest.mark.parametrize("condition", [0, 4])
@pytest.mark.parametrize("members", [1, 2])
def test_projected_weights_have_norm_1_and_the_values_of_before(
    members: int, condition: int
) -> None:
    energy, x = trained(members, "batch", condition), rows(32, 3)
    energy.activation = nn.ReLU()
    for one in energy.modules():
        if isinstance(one, BatchNormalization):
            one.epsilon = 1e-12
    bound = energy.given(rows(32, 4)) if condition else energy.unconditional()
    before, _ = bound.batch_values(x)
    head = energy.head.weight.clone()
    energy.project_weights()
    first, hidden = (weight_of(layer) for layer in energy.layers)
    if energy.condition_layer is not None:
        first = torch.cat([first, weight_of(energy.condition_layer)], 1)
    for weight in (first, hidden):
        norms = weight.norm(dim=1)  # (members, units)
        torch.testing.assert_close(norms, torch.ones_like(norms))
    assert torch.equal(energy.head.weight, head)
    torch.testing.assert_close(bound.batch_values(x)[0], before, rtol=1e-3, atol=1e-4)


def test_a_unit_without_weights_stays_as_it_is_when_the_others_are_projected() -> None:
    energy = trained(1, "batch", condition=0)
    with torch.no_grad():
        energy.layers[1].weight[3] = 0
        energy.layers[1].bias[3] = 0.5
    energy.project_weights()
    assert not energy.layers[1].weight[3].any()
    assert energy.layers[1].bias[3] == 0.5
    torch.testing.assert_close(energy.layers[1].weight[4].norm(), torch.ones(()))


def test_weights_without_batch_normalisation_are_not_projected() -> None:
    with pytest.raises(ValueError, match="expected normalization 'batch', got 'layer'"):
        trained(2, "layer").project_weights()


# ---- statistics ---------------------------------------------------------------------------------


def textbook(energy: MLPEnergy, features: Tensor) -> Tensor:
    """Return the energies of one member of no condition, by torch's own batch normalisation."""

    def normalized(one: BatchNormalization, h: Tensor) -> Tensor:
        return nn.functional.batch_norm(
            h, None, None, one.weight[0], one.bias[0], training=True, eps=one.epsilon
        )

    h = normalized(energy.x_normalization, features)
    for layer, one in zip(energy.layers, energy.normalizations, strict=True):
        h = normalized(one, energy.activation(layer(h)))
    return energy.head(h).squeeze(-1)


def test_the_values_of_a_batch_are_the_textbooks() -> None:
    energy, x = trained(1, "batch", condition=0), rows(32, 3)
    values, _ = energy.unconditional().batch_values(x)
    torch.testing.assert_close(values[0], textbook(energy, x), rtol=1e-4, atol=1e-5)
    energy.train()
    torch.testing.assert_close(energy(x), values.mean(0), rtol=1e-4, atol=1e-5)


def test_running_statistics_are_the_average_of_the_batches() -> None:
    one = BatchNormalization(1, 2, momentum=0.9)
    mean, variance = torch.zeros(1, 2), torch.ones(1, 2)
    for seed in range(5):
        batch = rows(16, 2, seed=seed)
        one.of_batch(batch)
        mean = 0.9 * mean + 0.1 * batch.mean(0)
        variance = 0.9 * variance + 0.1 * batch.var(0, correction=0)
    torch.testing.assert_close(one.running_mean, mean)
    torch.testing.assert_close(one.running_variance, variance)
    assert one.running_batches == 5


def test_each_member_has_its_own_statistics() -> None:
    one = BatchNormalization(2, 3)
    batch = torch.stack([rows(64, 3), 5 + rows(64, 3, seed=1)])
    normal = one.of_batch(batch)(batch)
    torch.testing.assert_close(normal.mean(1), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.var(1, correction=0), torch.ones(2, 3), atol=2e-3, rtol=0)


def test_further_rows_reuse_the_statistics_of_the_batch() -> None:
    energy, condition, x = trained(2, "batch"), rows(32, 4), rows(32, 3)
    values, affines = energy.given(condition).batch_values(x)
    state = {name: value.clone() for name, value in energy.state_dict().items()}
    again = energy.given(condition).member_values(x.unsqueeze(1), affines)  # (members, 32, 1)
    torch.testing.assert_close(again.squeeze(-1), values)
    alone = energy.given(condition[:1]).member_values(x[:1], affines)
    torch.testing.assert_close(alone, values[:, :1])
    assert all(torch.equal(value, state[name]) for name, value in energy.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_are_taken_in_float32(dtype: torch.dtype) -> None:
    one, batch = BatchNormalization(1, 1), 100 + rows(512, 1).to(dtype)
    affine = one.of_batch(batch)
    assert affine.scale.dtype == one.running_mean.dtype == torch.float32
    expected = batch.double().mean(0, keepdim=True)
    torch.testing.assert_close(one.running_mean.double(), 0.01 * expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("normalization", [None, "batch"])
def test_large_energies_are_not_rounded_to_half_precision(normalization: str | None) -> None:
    # Near 300 bfloat16 has steps of 2. Weights alone round otherwise, as the differences are.
    energy, x = trained(2, normalization), rows(64, 3)
    exact = energy.given(rows(64, 4))(x)
    with torch.no_grad():
        energy.head.bias.add_(300)
    with torch.autocast("cpu", torch.bfloat16):
        low = energy.given(rows(64, 4))(x.requires_grad_())
    assert low.dtype == torch.float32
    assert (low - 300 - exact).abs().mean() < 0.02 * exact.std()


# ---- renormalisation ----------------------------------------------------------------------------


def test_after_the_warm_up_a_batch_near_the_average_is_normalised_by_the_average() -> None:
    # r and d within their bounds undo the batch's own statistics.
    one = BatchNormalization(1, 2, warm_up=0)
    one.running_mean.fill_(0.5)
    one.running_variance.fill_(2.0)
    batch = torch.randn(64, 2, generator=generator()) + 0.2
    torch.testing.assert_close(one.running()(batch), one(batch))


def test_far_from_the_average_the_correction_is_clipped() -> None:
    one = BatchNormalization(1, 1, warm_up=0)
    batch = 1000 + 50 * torch.randn(64, 1, generator=generator())
    plain = (batch - batch.mean()) / (batch.var(correction=0) + one.epsilon).sqrt()
    torch.testing.assert_close(one(batch), 3 * plain + 5, rtol=1e-3, atol=1e-3)


def test_while_warming_up_there_is_no_correction() -> None:
    one = BatchNormalization(1, 1, warm_up=2)
    batch = 1000 + 50 * torch.randn(64, 1, generator=generator())
    first, second, third = (one(batch) for _ in range(3))
    torch.testing.assert_close(first, second)
    assert (third - second).abs().mean() > 1


def test_no_gradient_flows_through_the_correction() -> None:
    # With constant r and d the normalised batch has zero gradient along shifts and scalings.
    one = BatchNormalization(1, 1, warm_up=0, epsilon=0.0)
    batch = (3 + torch.randn(64, 1, generator=generator())).requires_grad_()
    direction = torch.randn(64, 1, generator=generator(1))
    (gradient,) = torch.autograd.grad((one(batch) * direction).sum(), batch)
    assert gradient.sum().abs() < 1e-4
    assert (gradient * batch).sum().abs() < 1e-3


def test_layer_normalisation_is_torchs_with_gains_of_each_member() -> None:
    one, h = LayerNormalization(2, 6), rows(2, 5, 6)
    with torch.no_grad():
        one.weight.copy_(rows(2, 1, 6, seed=1))
    for member in range(2):
        expected = nn.functional.layer_norm(h[member], (6,), one.weight[member, 0], eps=1e-5)
        torch.testing.assert_close(one(h)[member], expected)


def test_an_unknown_normalisation_is_refused() -> None:
    with pytest.raises(ValueError, match="normalization 'batch', 'layer' or None, got 'group'"):
        MLPEnergy(2, normalization="group")  # type: ignore[arg-type]
