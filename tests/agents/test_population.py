"""A population of agents is each of them, to rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ebrl.agents import EnergyActorCritic
from ebrl.agents.population import Population
from ebrl.agents.soft_agent import Due, Transitions

BATCH, SIZE, UPDATES = 32, 3, 4
# The gradient of a bias before batch normalisation is zero. Adam with its own eps of 1e-8 would
# make a whole step of its rounding.
NETS = {"net_arch": [32, 32], "optimizer_kwargs": {"eps": 1e-4}}
SAC = {"normalization": None, "target": "average", "policy_delay": 1, "adam_beta1": 0.9}


def make(seed: int, env: str = "Pendulum-v1", **options: Any) -> EnergyActorCritic:
    options = {"policy_kwargs": NETS, "batch_size": BATCH, **options}
    return EnergyActorCritic("MlpPolicy", env, seed=seed, device="cpu", **options)


def batches(seed: int) -> Transitions:
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(SIZE, BATCH, 3, generator=generator)
    actions = torch.rand(SIZE, BATCH, 1, generator=generator) * 2 - 1
    rewards = torch.randn(SIZE, BATCH, generator=generator)
    return Transitions(state, actions, state.roll(1, 1), rewards, torch.full((SIZE, BATCH), 0.99))


@pytest.mark.parametrize(
    "options",
    [
        {},
        SAC,
        {"normalization": "layer", "target": "average"},
        {"unit_weights": True, "proposal_normalization": "batch"},
        {"candidates": 3},
        {"scale_rewards": True},
        {"averaging": 0.3, "proposal_normalization": "batch"},
    ],
    ids=str,
)
def test_the_population_is_each_agent(options: dict[str, Any]) -> None:
    agents = [make(seed, **options) for seed in range(SIZE)]
    population = Population([make(seed, **options) for seed in range(SIZE)], "cpu")
    for agent in agents:
        agent._setup_learn(1, None)
    for k in range(UPDATES):
        batch, noises = batches(k), [agent._draw(BATCH) for agent in agents]
        due = Due(policy=k % 2 == 0, target=True)
        noise = type(noises[0])(*(torch.stack(parts) for parts in zip(*noises, strict=True)))
        losses = population.update(batch, noise, due)
        for i, agent in enumerate(agents):
            own = agent._update(Transitions(*(each[i] for each in batch)), noises[i], due)
            torch.testing.assert_close(losses[i], own["critic_loss"], rtol=1e-4, atol=0)
    stacked = population.parameters | population.buffers
    for i, agent in enumerate(agents):
        for name, tensor in agent.policy.state_dict().items():
            if not name.startswith("sampler."):
                torch.testing.assert_close(stacked[name][i].detach(), tensor, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("acting", [(1, 0), (4, 0), (4, 2)], ids=str)
def test_one_agent_acts_as_its_policy(acting: tuple[int, int]) -> None:
    options = dict(zip(("acting_candidates", "moves"), acting, strict=True))
    agent, population = make(0, **options), Population([make(0, **options)], "cpu")
    streams = [torch.Generator().manual_seed(5) for _ in range(2)]
    agent.policy.generator = streams[0]
    for k in range(20):
        observation = torch.randn(1, 3, generator=torch.Generator().manual_seed(k))
        expected = agent.policy.sample(observation, adapt=True).squeeze(1)
        torch.testing.assert_close(population.act(observation, streams[1]), expected)


def test_agents_of_a_population_act_independently() -> None:
    population = Population([make(seed) for seed in range(SIZE)], "cpu")
    generator = torch.Generator().manual_seed(0)
    actions = torch.stack([population.act(torch.ones(SIZE, 3), generator) for _ in range(400)])
    correlation = torch.corrcoef(actions.squeeze(-1).T)
    assert (correlation - torch.eye(SIZE)).abs().max() < 4 / 400**0.5


def test_agents_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="same shapes"):
        Population([make(0), make(1, env="MountainCarContinuous-v0")], "cpu")
    with pytest.raises(ValueError, match="components=1"):
        Population([make(0, components=2)], "cpu")
    with pytest.raises(ValueError, match="got SGD"):
        Population([make(0, policy_kwargs={"optimizer_class": torch.optim.SGD})], "cpu")
    with pytest.raises(ValueError, match="at least one"):
        Population([], "cpu")


def test_agents_of_different_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected agents of one policy_delay, got \[3, 2\]"):
        Population([make(0), make(1, policy_delay=2)], "cpu")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"policy_kwargs": {**NETS, "activation_fn": torch.nn.Tanh}}, "one policy_kwargs"),
        ({"precision": "bfloat16"}, "precision='float32'"),
    ],
)
def test_agents_that_do_not_fit_together_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Population([make(0), make(1, **options)], "cpu")


def test_averages_of_different_age_are_refused() -> None:
    agents = [make(0, averaging=0.1), make(1, averaging=0.1)]
    agents[1].policy.average_proposal()
    with pytest.raises(ValueError, match=r"updates behind them, got \[0, 1\]"):
        Population(agents, "cpu")


@pytest.mark.parametrize("averaging", [0.0, 0.3])
def test_agents_get_their_weights_back(averaging: float) -> None:
    made = [make(seed, averaging=averaging) for seed in range(SIZE)]
    population = Population(made, "cpu")
    noises = [make(seed)._draw(BATCH) for seed in range(SIZE)]
    noise = type(noises[0])(*(torch.stack(parts) for parts in zip(*noises, strict=True)))
    for k in range(3):
        population.update(batches(k), noise, Due(policy=True, target=True))
    agents = [make(seed + 7, averaging=averaging) for seed in range(SIZE)]
    population.copy_to(agents)
    for i, agent in enumerate(agents):
        for name, tensor in population.proposals()[i].items():
            acting = agent.policy.acting_proposal.state_dict()
            torch.testing.assert_close(acting[name], tensor)
        torch.testing.assert_close(agent.ent_coef_tensor, population.temperature[i])
        torch.testing.assert_close(agent.log_ent_coef.exp()[0], population.temperature[i])
