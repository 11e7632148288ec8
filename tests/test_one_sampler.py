"""The claim of the library: what picks an action denoises a photograph and generates an image."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch
from photographs import GaussianImages

from ebrl.agents import EnergyActorCritic
from ebrl.sampling import Sampler
from ebrl.sampling.sampler import Stage
from ebrl.vision.generation import generate, generation_levels
from ebrl.vision.observations import Direct

DEVIATION, NOISE, SHAPE, N = 0.2, 0.15, (1, 2, 2), 3_000


@pytest.fixture
def sampler() -> Sampler:
    """The class and the very kernel of an agent that has just picked an action with them."""
    environment = gym.make("Pendulum-v1")
    agent = EnergyActorCritic(
        "MlpPolicy", environment, moves=3, policy_kwargs={"net_arch": [8]}, device="cpu", seed=0
    )
    observation, _ = environment.reset(seed=0)
    action, _ = agent.predict(observation)
    assert action.shape == (1,)
    assert agent.policy.acceptance is not None  # its sampler moved the action
    return type(agent.policy.sampler)(agent.policy.sampler.kernel, steps=40)


def test_it_generates(sampler: Sampler) -> None:
    generator = torch.Generator().manual_seed(0)
    levels = generation_levels(1.0, 0.02, 3)  # so few that the path alone is far off
    prior = GaussianImages(DEVIATION)
    coarse = generate(prior, N, SHAPE, generator=generator, levels=levels)
    made = generate(prior, N, SHAPE, generator=generator, levels=levels, corrector=sampler)
    assert abs(coarse.x.std() - DEVIATION) > 0.03
    # What mends it are moves at the middle level, .19: those of the last one are small.
    assert made.x.std() == pytest.approx(DEVIATION, abs=0.01)
    assert made.x.mean() == pytest.approx(0.5, abs=4 * DEVIATION / (4 * N) ** 0.5)
    assert 0 < made.acceptance[1] < 1


def test_it_denoises(sampler: Sampler) -> None:
    """Draws of what a noisy image may have been, where mean and deviation are closed form."""
    generator = torch.Generator().manual_seed(0)
    y = torch.full((N, *SHAPE), 0.8)
    posterior = GaussianImages(DEVIATION).given(torch.tensor(0.01)) + Direct(y, NOISE)
    stages = [Stage(posterior, 200, 0.3 * NOISE**2)]
    x = sampler.anneal(stages, y, generator=generator).x
    precision = 1 / (DEVIATION**2 + 0.01**2) + 1 / NOISE**2
    mean = (0.5 / (DEVIATION**2 + 0.01**2) + 0.8 / NOISE**2) / precision
    assert x.mean() == pytest.approx(mean, abs=4 * (precision * 4 * N) ** -0.5)
    assert x.std() == pytest.approx(precision**-0.5, abs=4 * (2 * precision * 4 * N) ** -0.5)
