"""The tanh mixture: its density, its draws, its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from problems import generator
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.distributions import TransformedDistribution as Transformed
from torch.distributions.transforms import TanhTransform

from ebrl.agents.proposal import MixtureProposal, TanhMixture, perplexity, reverse_kl
from ebrl.energies import Energy, Gaussian

components = pytest.mark.parametrize("count", [1, 3])


def mixture(count: int, dimension: int = 2, batch: int = 4, epsilon: float = 0.0) -> TanhMixture:
    stream = generator(count)
    logits, spread = torch.randn(batch, count, generator=stream), 0.3
    return TanhMixture(
        torch.log_softmax(logits.double(), -1),
        torch.randn(batch, count, dimension, generator=stream, dtype=torch.float64),
        spread * torch.randn(batch, count, dimension, generator=stream, dtype=torch.float64) - 0.5,
        epsilon,
    )


def gaussians(one: TanhMixture) -> MixtureSameFamily:
    """Return the mixture of u, by torch.distributions."""
    parts = Independent(Normal(one.mean, one.log_deviation.exp()), 1)
    return MixtureSameFamily(Categorical(logits=one.log_weights), parts)


def systematic(one: TanhMixture, count: int, seed: int = 0) -> Tensor:
    stream, batch = generator(seed), len(one.mean)
    offset = torch.rand(batch, 1, generator=stream, dtype=torch.float64)
    normal = torch.randn(batch, count, one.mean.shape[-1], generator=stream, dtype=torch.float64)
    return one.systematic(offset, normal)


# Density.


@components
def test_the_density_is_that_of_torch_distributions(count: int) -> None:
    one = mixture(count)
    free = systematic(one, 7)
    expected = Transformed(gaussians(one), [TanhTransform()]).log_prob(
        torch.tanh(free).transpose(0, 1)
    )
    torch.testing.assert_close(one.log_density(free), expected.T, rtol=1e-6, atol=1e-6)


@components
def test_the_density_integrates_to_one_over_actions(count: int) -> None:
    one = mixture(count, dimension=1)
    action = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[1:-1]
    density = one.log_density(torch.atanh(action)[None, :, None].expand(4, -1, -1)).exp()
    mass = torch.trapezoid(density, action)
    torch.testing.assert_close(mass, torch.ones(4, dtype=torch.float64), atol=1e-4, rtol=0)


def test_the_density_stays_finite_where_actions_round_to_the_bound() -> None:
    one = mixture(3, dimension=1, batch=1)
    free = torch.tensor([[[-60.0], [60.0]]], dtype=torch.float64)
    gaussian = gaussians(one).log_prob(free[0])
    expected = gaussian - (np.log(4.0) - 120.0)  # 1 - tanh² u → 4 exp(-2 |u|)
    torch.testing.assert_close(one.log_density(free)[0], expected)


def test_epsilon_is_the_formula_of_stable_baselines3() -> None:
    one = mixture(1, batch=5, epsilon=1e-6)
    free = systematic(one, 1)
    theirs = SquashedDiagGaussianDistribution(2, epsilon=1e-6)
    theirs.proba_distribution(one.mean.squeeze(1), one.log_deviation.squeeze(1))
    expected = theirs.log_prob(torch.tanh(free.squeeze(1)), free.squeeze(1))
    torch.testing.assert_close(one.log_density(free).squeeze(1), expected)
    exact = mixture(1, batch=5).log_density(free).squeeze(1)
    assert not torch.equal(expected, exact)


# Draws.


@pytest.mark.parametrize("draws", [1, 2, 7, 64])
def test_each_component_is_drawn_its_share_rounded_up_or_down(draws: int) -> None:
    one = mixture(3, dimension=1, batch=200)
    apart = TanhMixture(
        one.log_weights,
        torch.tensor([-100.0, 0.0, 100.0]).double().view(1, 3, 1).expand(200, 3, 1),
        torch.zeros(200, 3, 1, dtype=torch.float64),
    )
    chosen = (systematic(apart, draws).squeeze(-1) / 100).round() + 1  # (batch, draws)
    counts = torch.stack([(chosen == k).sum(-1) for k in range(3)], -1)
    share = draws * one.log_weights.exp()
    assert ((counts >= share.floor()) & (counts <= share.ceil())).all()
    assert (counts.sum(-1) == draws).all()


@pytest.mark.parametrize("draws", [1, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_systematic_draws_have_the_mixtures_density(count: int, draws: int) -> None:
    one = mixture(count, dimension=1, batch=1)
    replicates = 8000
    many = TanhMixture(*(field.expand(replicates, *field.shape[1:]) for field in one[:3]))
    free = systematic(many, draws).squeeze(-1)  # (replicates, draws)
    edges = torch.linspace(-3, 3, 13, dtype=torch.float64)
    parts = Normal(one.mean.squeeze(-1), one.log_deviation.exp().squeeze(-1))
    cumulative = (one.log_weights.exp() * parts.cdf(edges[:, None])).sum(-1)
    inside = (cumulative > 0.01) & (cumulative < 0.99)  # where the errors are normal
    assert inside.sum() >= 3
    for some in (free, free[:, :1], free[:, -1:]):  # all, and each place alone
        below = (some[..., None] < edges).double().mean(1)  # (replicates, edges)
        # Replicates are independent, draws within one are not: errors from the replicates' spread.
        standard_error = below.std(0) / replicates**0.5
        assert ((below.mean(0) - cumulative).abs() < 4.5 * standard_error)[inside].all()


def test_draws_by_independent_numbers_are_independent() -> None:
    batch = 20_000
    one = TanhMixture(
        torch.tensor([0.7, 0.3]).log().expand(batch, 2),
        torch.tensor([[-100.0], [100.0]]).expand(batch, 2, 1),
        torch.zeros(batch, 2, 1),
    )
    stream = generator()
    uniform = torch.rand(batch, 2, generator=stream)
    right = one.draw(uniform, torch.randn(batch, 2, 1, generator=stream)).squeeze(-1) > 0
    both = right.all(1).double().mean()
    assert abs(both - 0.09) < 4 * (0.09 * 0.91 / batch) ** 0.5


def test_rounding_never_chooses_past_the_last_component() -> None:
    log_weights = torch.log_softmax(torch.randn(5000, 7, generator=generator()), -1)
    one = TanhMixture(log_weights, torch.zeros(5000, 7, 1), torch.zeros(5000, 7, 1))
    offset = torch.full((5000, 1), 1 - 2.0**-24)
    assert one.systematic(offset, torch.zeros(5000, 16, 1)).isfinite().all()


@components
def test_one_draw_of_each_component(count: int) -> None:
    one = mixture(count)
    free = one.one_each(torch.ones(4, count, 2, dtype=torch.float64))
    torch.testing.assert_close(free, one.mean + one.log_deviation.exp())


# Gradients.


def test_the_gradient_reaches_weights_means_and_deviations() -> None:
    # E_q f = Σ_k w_k f(u_k) with one draw of each: against finite differences on the same noise.
    normal = torch.randn(3, 3, 2, generator=generator(), dtype=torch.float64)

    def objective(logits: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
        one = TanhMixture(torch.log_softmax(logits, -1), mean, log_deviation)
        free = one.one_each(normal)
        inner = one.log_density(free) + torch.tanh(free).cos().sum(-1)
        return (one.log_weights.exp() * inner).sum(-1)

    base = mixture(3, batch=3)
    inputs = tuple(field.clone().requires_grad_() for field in base[:3])
    assert torch.autograd.gradcheck(objective, inputs)


@components
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_the_gradient_of_the_divergence(count: int, epsilon: float) -> None:
    # Against finite differences on the same noise, through log_softmax as the network has it.
    energy, temperature = Gaussian(0.3, 0.5, 2), torch.tensor(0.7, dtype=torch.float64)
    normal = torch.randn(4, count, 2, generator=generator(), dtype=torch.float64)

    def loss(logits: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
        one = TanhMixture(torch.log_softmax(logits, -1), mean, log_deviation, epsilon)
        return reverse_kl(one, normal, energy, temperature).loss

    fields = tuple(field.clone().requires_grad_() for field in mixture(count, epsilon=epsilon)[:3])
    assert torch.autograd.gradcheck(loss, fields)


class PolicyEnergy(Energy):
    """`-T log q` of a mixture q: the energy whose policy at temperature T is q."""

    def __init__(self, policy: TanhMixture, temperature: float):
        super().__init__()
        self.policy, self.temperature = policy, temperature

    def forward(self, x: Tensor) -> Tensor:
        return -self.temperature * self.policy.log_density(torch.atanh(x))


def test_the_divergence_is_smallest_where_the_proposal_is_the_policy() -> None:
    # exp(-E/T) with E = -T log q* is q* itself: there T KL(q, q*) = 0 and its gradient vanishes.
    best = mixture(1, dimension=1, batch=1)
    energy = PolicyEnergy(best, temperature=0.7)
    temperature = torch.tensor(0.7, dtype=torch.float64)
    normal = torch.randn(20_000, 1, 1, generator=generator(), dtype=torch.float64)

    def loss(shift: float, widening: float) -> float:
        one = best._replace(mean=best.mean + shift, log_deviation=best.log_deviation + widening)
        return reverse_kl(one, normal, energy, temperature).loss.item()

    assert loss(0.0, 0.0) == pytest.approx(0.0, abs=1e-9)
    assert min(loss(0.1, 0.0), loss(-0.1, 0.0), loss(0.0, 0.1), loss(0.0, -0.1)) > 1e-3


def test_weighted_draws_of_each_component_are_an_unbiased_expectation() -> None:
    one, replicates = mixture(3, dimension=1, batch=1), 20_000
    normal = torch.randn(replicates, 3, 1, generator=generator(), dtype=torch.float64)
    free = one.one_each(normal)
    weighted = (one.log_weights.exp() * free.squeeze(-1).square()).sum(-1)
    parts = one.log_deviation.exp().square() + one.mean.square()
    expected = (one.log_weights.exp() * parts.squeeze(-1)).sum().item()
    standard_error = weighted.std().item() / replicates**0.5
    assert weighted.mean().item() == pytest.approx(expected, abs=4 * standard_error)


def test_perplexity_is_the_number_of_components_in_use() -> None:
    weights = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.25] * 4])
    torch.testing.assert_close(perplexity(weights), torch.tensor([1.0, 2.0, 4.0]))


# The network.


def network(count: int) -> MixtureProposal:
    torch.manual_seed(0)
    observations = spaces.Box(-1, 1, (3,), np.float32)
    return MixtureProposal(
        observations,
        spaces.Box(-1, 1, (2,), np.float32),
        FlattenExtractor(observations),
        [8],
        nn.ReLU,
        count,
        log_deviation_bounds=(-1.0, 0.1),
        epsilon=1e-6,
    )


@components
def test_the_network_gives_a_normalised_mixture_for_each_observation(count: int) -> None:
    observation = 30 * torch.randn(5, 3, generator=generator())
    one = network(count)(observation)
    assert one.mean.shape == one.log_deviation.shape == (5, count, 2)
    torch.testing.assert_close(one.log_weights.exp().sum(-1), torch.ones(5))
    assert one.log_deviation.min() == -1.0  # both bounds are met
    assert one.log_deviation.max().item() == pytest.approx(0.1)
    assert one.epsilon == 1e-6
    assert not torch.equal(one.mean[0], one.mean[1])
