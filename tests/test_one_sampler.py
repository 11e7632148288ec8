"""The claim of the library: what picks an action denoises a photograph and edits a sentence."""

from __future__ import annotations

import pytest
import torch
from languages import SENTENCES, animals
from photographs import GaussianImages

from ebrl.agents import EnergyActorCritic
from ebrl.kernels import Edits
from ebrl.sampling import Sampler
from ebrl.sampling.paths import temperature_path
from ebrl.sampling.sampler import Stage
from ebrl.sequences.distance import EditDistance
from ebrl.sequences.filling import MaskedFilling
from ebrl.sequences.tokens import SPECIAL, padded
from ebrl.spaces import Strings
from ebrl.vision.generation import generate, generation_levels
from ebrl.vision.networks import ANY_LEVEL
from ebrl.vision.observations import Direct

DEVIATION, NOISE, SHAPE, N = 0.2, 0.15, (1, 2, 2), 3_000


@pytest.fixture
def sampler() -> Sampler:
    """The class and the very kernel of an agent that has just picked an action with them."""
    options = {"moves": 3, "policy_kwargs": {"net_arch": [8]}, "learning_starts": 0, "seed": 0}
    agent = EnergyActorCritic("MlpPolicy", "Pendulum-v1", device="cpu", **options).learn(1)
    assert agent.policy.acceptance is not None  # its sampler moved the action
    return type(agent.policy.sampler)(agent.policy.sampler.kernel, steps=40)


def test_it_generates(sampler: Sampler) -> None:
    generator = torch.Generator().manual_seed(0)
    levels = generation_levels(1.0, 0.02, 3)  # so few that the path alone is far off
    prior = GaussianImages(DEVIATION)
    prior.levels = ANY_LEVEL  # in closed form
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


def test_it_repairs_a_sentence(sampler: Sampler) -> None:
    """The class, with a kernel that moves strings: language and edit distance are its energy."""
    language = animals()
    broken = language.tokenizer.encode("The dog hears hears the fish.")
    space = Strings(len(broken) + 1, language.tokenizer.vocabulary, first=len(SPECIAL))
    kernel = Edits(space, MaskedFilling(language.causal.transformer))
    target = language.coherence + EditDistance(broken)
    path = temperature_path(target, [1.0, 0.5, 0.2], steps=40, step_size=1.0)
    editor = type(sampler)(kernel, space, steps=1)
    start = padded([broken] * 16, space.longest)
    end = editor.anneal(path, start, generator=torch.Generator().manual_seed(0))
    best = language.tokenizer.decode(end.x[end.energy.argmin()])
    assert best in SENTENCES
    assert (end.energy < target(start)).all()
