"""The soft value: what it estimates, which bound it is, and how well it knows its error."""

from __future__ import annotations

import math

import pytest
import torch
from problems import generator
from torch import Tensor, nn

from ebrl import FunctionEnergy, Gaussian
from ebrl.energies import Ising
from ebrl.estimators import (
    Estimate,
    SoftValue,
    entropy,
    exact_log_normalizer,
    importance,
    soft_value,
)
from ebrl.sampling import importance_resampling
from ebrl.spaces import Binary

TARGET = Gaussian(0.5, 0.7, 2)
PROPOSAL = Gaussian(0.0, 1.5, 2)  # wider than the target: the weights have every moment


def exact_value(temperature: float) -> float:
    """Return `T log ∫ exp(-E/T)` for `E = |x - m|²/2s² + log Z1`, in 2 dimensions."""
    at_temperature = 2 * 0.5 * math.log(2 * math.pi * temperature * 0.49)
    return temperature * at_temperature - TARGET.log_normalizer


def estimate(
    replicates: int, candidates: int, temperature: float = 1.0, seed: int = 0
) -> SoftValue:
    normal = torch.randn(replicates, candidates, 2, generator=generator(seed), dtype=torch.float64)
    x = 1.5 * normal
    return soft_value(TARGET(x), -PROPOSAL(x), temperature)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("candidates", [1, 4, 32])
def test_the_normalizer_is_unbiased_for_any_number_of_candidates(
    candidates: int, temperature: float
) -> None:
    normalizers = (estimate(20_000, candidates, temperature).value / temperature).exp()
    standard_error = normalizers.std().item() / 20_000**0.5
    expected = math.exp(exact_value(temperature) / temperature)
    assert normalizers.mean().item() == pytest.approx(expected, abs=4 * standard_error)


def test_the_value_is_a_lower_bound_that_tightens_with_every_candidate() -> None:
    values = [estimate(10_000, candidates).value for candidates in (1, 2, 4, 16, 64)]
    means = [value.mean().item() for value in values]
    errors = [value.std().item() / 10_000**0.5 for value in values]
    for i in range(4):  # each gap is larger than the noise of both ends
        assert means[i + 1] - means[i] > 4 * (errors[i] ** 2 + errors[i + 1] ** 2) ** 0.5
    assert means[-1] < exact_value(1.0)
    assert means[-1] == pytest.approx(exact_value(1.0), abs=0.05)


def test_one_candidate_is_the_soft_value_of_sac() -> None:
    energy, log_density = torch.randn(2, 50, 1, generator=generator(), dtype=torch.float64)
    value = soft_value(energy, log_density, 0.3).value
    torch.testing.assert_close(value, (-energy - 0.3 * log_density).squeeze(-1))


def test_no_energy_and_uniform_candidates_give_the_volume_exactly() -> None:
    # Of [-1, 1]^d: T d log 2 for every number of candidates, and the entropy d log 2.
    for dimension in (1, 6, 17):
        log_density = torch.full((5, 8), -dimension * math.log(2), dtype=torch.float64)
        soft = soft_value(torch.zeros_like(log_density), log_density, 0.2)
        volume = torch.full((5,), dimension * math.log(2), dtype=torch.float64)
        torch.testing.assert_close(soft.value, 0.2 * volume)
        torch.testing.assert_close(soft.entropy, volume)
        torch.testing.assert_close(soft.effective_sample_size, torch.full_like(volume, 8.0))
        torch.testing.assert_close(soft.standard_error, torch.zeros_like(volume))


# Equivariances, exact up to rounding.


def numbers() -> tuple[Tensor, Tensor]:
    energy, log_density = torch.randn(2, 50, 8, generator=generator(), dtype=torch.float64)
    return energy, log_density


def test_a_constant_added_to_the_energy_is_taken_from_the_value_alone() -> None:
    energy, log_density = numbers()
    one, two = (soft_value(energy + c, log_density, 0.7) for c in (0.0, 3.0))
    torch.testing.assert_close(two.value, one.value - 3.0)
    torch.testing.assert_close(two.entropy, one.entropy)
    torch.testing.assert_close(two.standard_error, one.standard_error)
    torch.testing.assert_close(two.weights, one.weights)


def test_units_of_reward_scale_the_value_and_nothing_else() -> None:
    energy, log_density = numbers()
    one, two = (soft_value(k * energy, log_density, k * 0.7) for k in (1.0, 25.0))
    torch.testing.assert_close(two.value, 25.0 * one.value)
    torch.testing.assert_close(two.standard_error, 25.0 * one.standard_error)
    torch.testing.assert_close(two.entropy, one.entropy)
    torch.testing.assert_close(two.effective_sample_size, one.effective_sample_size)


def test_the_order_of_candidates_means_nothing() -> None:
    energy, log_density = numbers()
    one = soft_value(energy, log_density, 0.7)
    two = soft_value(energy.flip(-1), log_density.flip(-1), 0.7)
    torch.testing.assert_close(one.value, two.value)
    torch.testing.assert_close(one.entropy, two.entropy)


def test_cold_values_are_those_of_the_best_candidate_and_hot_ones_of_the_mean() -> None:
    energy, log_density = numbers()
    cold = soft_value(energy, log_density, 1e-6)
    torch.testing.assert_close(cold.value, -energy.amin(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(cold.weights.amax(-1), torch.ones(50, dtype=torch.float64))
    # V = T log mean(1/q) - Σ w E + O(1/T) with w ∝ 1/q.
    hot = soft_value(energy, log_density, 1e6)
    volume = torch.logsumexp(-log_density, -1) - math.log(8)
    weighted = (torch.softmax(-log_density, -1) * energy).sum(-1)
    torch.testing.assert_close(hot.value - 1e6 * volume, -weighted, atol=1e-4, rtol=0)


def test_energies_of_any_size_stay_finite() -> None:
    energy = torch.tensor([[1e6, 1e6 + 1], [-1e6, 1e6]])
    soft = soft_value(energy, torch.zeros(2, 2), 1e-2)
    for field in (soft.value, soft.entropy, soft.effective_sample_size, soft.standard_error):
        assert field.isfinite().all()


def test_each_row_may_have_its_own_temperature() -> None:
    # As many rows as candidates: aligned from the right it would fit and be wrong.
    energy, log_density = (tensor[:8] for tensor in numbers())
    temperature = torch.linspace(0.2, 2.0, 8, dtype=torch.float64)
    soft = soft_value(energy, log_density, temperature)
    for row in range(8):
        alone = soft_value(energy[row], log_density[row], temperature[row].item())
        torch.testing.assert_close(soft.value[row], alone.value)
        torch.testing.assert_close(soft.entropy[row], alone.entropy)
        torch.testing.assert_close(soft.standard_error[row], alone.standard_error)


# Quality.


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_entropy_is_that_of_the_tempered_gaussian(temperature: float) -> None:
    # Self-normalised: the bias is of order 1/M, far below the standard error of 100 replicates.
    entropy = estimate(100, 2000, temperature).entropy
    expected = 2 * 0.5 * math.log(2 * math.pi * math.e * temperature * 0.49)
    standard_error = entropy.std().item() / 100**0.5
    assert entropy.mean().item() == pytest.approx(expected, abs=4 * standard_error)


def test_the_entropy_needs_two_samples_for_its_error() -> None:
    log_normalizer = Estimate(torch.tensor(0.0), torch.tensor(0.0), "none")
    with pytest.raises(ValueError, match="samples >= 2, got 1"):
        entropy(Gaussian(0.0, 1.0, 1), torch.zeros(1, 1), log_normalizer)
    with pytest.raises(TypeError, match=r"got float: of bounds pass .upper"):
        entropy(Gaussian(0.0, 1.0, 1), torch.zeros(2, 1), 0.0)  # type: ignore[arg-type]


def test_perfect_candidates_have_no_error() -> None:
    x = 0.5 + 0.7 * torch.randn(20, 16, 2, generator=generator(), dtype=torch.float64)
    soft = soft_value(TARGET(x), -TARGET(x), 1.0)
    torch.testing.assert_close(soft.value, torch.zeros(20, dtype=torch.float64))
    torch.testing.assert_close(soft.standard_error, torch.zeros(20, dtype=torch.float64))
    torch.testing.assert_close(
        soft.effective_sample_size, torch.full((20,), 16.0, dtype=torch.float64)
    )


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_standard_error_is_that_of_replicates(temperature: float) -> None:
    soft = estimate(3000, 300, temperature)
    spread = soft.value.std().item()  # itself known to 1/√(2 · 3000) = 1.3 %
    assert soft.standard_error.square().mean().sqrt().item() == pytest.approx(spread, rel=0.05)
    # So many lie within 1.96: 95 % and a binomial standard error of .4 %, bias included.
    standard = (soft.value - exact_value(temperature)) / soft.standard_error
    assert (standard.abs() < 1.96).double().mean().item() == pytest.approx(0.95, abs=0.02)


def test_one_candidate_knows_nothing_of_its_error() -> None:
    assert estimate(3, 1).standard_error.isposinf().all()


def test_the_effective_sample_size_is_between_one_and_all() -> None:
    sizes = estimate(500, 16).effective_sample_size
    assert ((sizes >= 1) & (sizes <= 16)).all()
    lone = soft_value(torch.tensor([[0.0, 1e4, 1e4]]), torch.zeros(1, 3), 1.0)
    torch.testing.assert_close(lone.effective_sample_size, torch.ones(1))


def test_one_draw_has_no_finite_error_and_none_is_refused() -> None:
    target = Gaussian(0.0, 1.0, 2)
    one = importance(target, target, 1, generator=generator())
    assert one.value.item() == pytest.approx(0.0, abs=1e-6)
    assert one.standard_error.isinf()
    with pytest.raises(ValueError, match="candidates >= 1, got 0"):
        importance(target, target, 0, generator=generator())


def test_temperatures_of_the_leading_batch_are_aligned_from_the_left() -> None:
    """`-E - T log q` with E = 1 and q = 1 is -1 at every temperature."""
    soft = soft_value(torch.ones(2, 2, 3), torch.zeros(2, 2, 3), torch.tensor([1.0, 0.1]))
    torch.testing.assert_close(soft.value, -torch.ones(2, 2))
    torch.testing.assert_close(soft.entropy, torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"of at most 1 axes, got shape \(4, 1\)"):
        soft_value(torch.zeros(4, 8), torch.zeros(4, 8), torch.ones(4, 1))


def test_candidates_outside_of_the_support_have_no_part_in_the_entropy() -> None:
    energy = torch.tensor([[0.5, math.inf, 1.0]])
    soft = soft_value(energy, torch.zeros(1, 3), 1.0)
    weights = torch.softmax(torch.tensor([-0.5, -1.0]), 0)
    expected = soft.value + (weights * torch.tensor([0.5, 1.0])).sum()
    torch.testing.assert_close(soft.entropy, expected)


def test_draws_have_the_dtype_of_the_energy_and_temperatures_are_positive() -> None:
    weights = nn.Linear(2, 1).double()
    energy = FunctionEnergy(lambda x: weights(x).squeeze(-1).square())
    energy.weights = weights
    found = importance(energy, PROPOSAL, 8, generator=generator())
    assert found.value.isfinite()
    samples = importance_resampling(energy, PROPOSAL, (3,), generator=generator())
    assert samples.x.dtype == torch.float64
    with pytest.raises(ValueError, match="a positive temperature, got -1"):
        importance(energy, PROPOSAL, 8, generator=generator(), temperature=-1.0)
    with pytest.raises(ValueError, match="a positive temperature, got 0"):
        exact_log_normalizer(Ising(torch.zeros(2, 2)), Binary(2), temperature=0.0)
