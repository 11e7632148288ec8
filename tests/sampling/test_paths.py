"""Annealed paths, traces and schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from problems import generator, within_standard_errors
from torch import Tensor, nn

from ebrl import DualAveraging, Energy, FunctionEnergy, Gaussian, Mixture, Sampler, schedules
from ebrl.kernels import MALA, ULA, GradientDescent
from ebrl.networks import MLPEnergy
from ebrl.sampling import Stage, noise_path, temperature_path
from ebrl.spaces import Box, Unbounded

GAUSSIAN = Gaussian(0.0, 1.0, 2)


class Blurred(Energy):
    """Modes of unequal weight, blurred by Gaussian noise of the level that is given."""

    takes_condition = True

    def __init__(self, one_feature: bool = False):
        super().__init__()
        self.level_shape = (1,) if one_feature else ()

    def given(self, level: Tensor) -> Energy:
        assert level.shape == self.level_shape
        deviation = math.hypot(0.3, float(level))
        return Mixture([Gaussian(2.0, deviation, 1), Gaussian(-2.0, deviation, 1)], [0.8, 0.2])


@pytest.mark.parametrize("one_feature", [False, True])
def test_a_path_of_falling_noise_weighs_modes_that_its_end_does_not_connect(
    one_feature: bool,
) -> None:
    levels = schedules.geometric(8.0, 0.05, 16)
    levels = levels[:, None] if one_feature else levels
    path = noise_path(Blurred(one_feature), levels, steps=25, step_size=0.05**2 / 4)
    ratios = [one.step_size / other.step_size for one, other in pairwise(path)]
    assert ratios == pytest.approx([(8 / 0.05) ** (2 / 15)] * 15)
    sampler = Sampler(MALA(), Unbounded(1), steps=1)
    x = sampler.anneal(
        path, 8 * torch.randn(10_000, 1, generator=generator()), generator=generator(1)
    ).x
    right = x[x > 0]
    assert len(right) / 10_000 == pytest.approx(0.8, abs=0.02)
    assert right.mean().item() == pytest.approx(2.0, abs=0.02)
    cold = sampler.anneal(
        [path[-1]._replace(steps=400)], -2 * torch.ones(500, 1), generator=generator()
    )
    assert (cold.x < 0).all()


def test_the_end_of_a_path_has_the_law_of_its_last_stage() -> None:
    path = temperature_path(GAUSSIAN, schedules.geometric(10.0, 0.5, 5), steps=15, step_size=0.5)
    assert [stage.temperature for stage in path][::4] == [10.0, 0.5]
    samples = Sampler(MALA(), Unbounded(2), steps=1).anneal(path, n=10_000, generator=generator())
    assert within_standard_errors(samples.x, torch.zeros(2), torch.full((2,), 0.5), 4)
    torch.testing.assert_close(samples.energy, GAUSSIAN(samples.x))


def test_a_path_is_its_stages_in_a_row() -> None:
    box = Box(-3.0, 3.0, "tanh")
    other = Gaussian(1.0, 0.5, 2)
    path = [Stage(GAUSSIAN, 3, 0.3, 2.0), Stage(other, 0, 0.1), Stage(other, 2, torch.tensor(0.1))]
    x, stream = torch.zeros(6, 2), generator()
    whole = Sampler(MALA(), box, steps=9).anneal(path, x, generator=generator())
    parts = []
    for energy, steps, step_size, temperature in path:
        sampler = Sampler(MALA(), box, steps=steps, step_size=step_size, temperature=temperature)
        parts.append(sampler.sample(energy, x, generator=stream))
        x = parts[-1].x
    torch.testing.assert_close(whole.x, x)
    torch.testing.assert_close(whole.energy, parts[-1].energy)
    acceptance = (3 * parts[0].info.acceptance + 2 * parts[2].info.acceptance) / 5
    torch.testing.assert_close(whole.info.acceptance, acceptance)
    assert whole.info.step_size == torch.tensor(0.1)


def test_a_path_leaves_the_adaptation_alone() -> None:
    sampler = Sampler(MALA(), steps=5, step_size=0.3, adaptation=DualAveraging())
    before = {name: value.clone() for name, value in sampler.state_dict().items()}
    sampler.anneal([Stage(GAUSSIAN, 5, 0.1)], torch.zeros(3, 2), generator=generator())
    sampler.trace(GAUSSIAN, torch.zeros(3, 2), draws=5, generator=generator())
    for name, value in sampler.state_dict().items():
        assert torch.equal(value, before[name]), name


class Spring(Energy):
    """`a x² / 2` with a to be learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (self.a * x.square() / 2).sum(-1)


@pytest.mark.parametrize(("gradient", "power"), [("none", 0), ("last", 1), ("unroll", 5)])
def test_gradients_go_through_the_stages_that_are_asked_for(gradient: str, power: int) -> None:
    # Descent by a stage of 3 steps and one of 2 leaves (1 - η a)^5 x.
    energy, x = Spring(), torch.ones(1, 1, dtype=torch.float64)
    path = [Stage(energy, 3, 0.1), Stage(energy, 2, 0.1)]
    samples = Sampler(GradientDescent(), steps=1).anneal(
        path, x, generator=generator(), gradient=gradient
    )
    left = 1 - 0.1 * energy.a.detach()
    torch.testing.assert_close(samples.x.detach(), left.pow(5).view(1, 1))
    if power:
        samples.x.sum().backward()
        torch.testing.assert_close(energy.a.grad, -0.1 * power * left.pow(4))
    else:
        assert not samples.x.requires_grad


def test_every_energy_of_a_path_is_evaluated_and_as_before_after_an_exception() -> None:
    networks = [nn.Sequential(nn.Linear(2, 4), nn.Dropout(), nn.Flatten(-1)) for _ in range(2)]
    seen = []

    def watch(module: nn.Module, inputs: object) -> None:
        seen.append(any(part.training for net in networks for part in net.modules()))
        if len(seen) > 5:
            raise KeyboardInterrupt

    for network in networks:
        network.register_forward_pre_hook(watch)
    path = [Stage(FunctionEnergy(nn.Sequential(net, Summed())), 3, 0.1) for net in networks]
    with pytest.raises(KeyboardInterrupt):
        Sampler(ULA(), steps=1).anneal(path, torch.zeros(3, 2), generator=generator())
    assert seen == [False] * 6
    assert all(part.training for net in networks for part in net.modules())
    assert all(weight.requires_grad for net in networks for weight in net.parameters())


class Summed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(-1)


# Traces.


@pytest.mark.parametrize("space", [None, Box(-1.0, 1.0, "tanh")], ids=["free", "tanh"])
def test_a_trace_is_where_every_step_led(space: Box | None) -> None:
    x, stream = torch.zeros(4, 3, 2), generator()
    sampler = Sampler(MALA(), space, steps=5, step_size=0.4)
    trace = sampler.trace(GAUSSIAN, x, draws=5, generator=generator(), temperature=0.5)
    end = sampler.sample(GAUSSIAN, x, generator=generator(), temperature=0.5)
    assert trace.x.shape == (5, 4, 3, 2)
    assert trace.energy.shape == (5, 4, 3)
    assert torch.equal(trace.x[-1], end.x)
    torch.testing.assert_close(trace.energy, GAUSSIAN(trace.x), rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(trace.info[:3], end.info[:3], strict=True):
        torch.testing.assert_close(mine, theirs)
    one = Sampler(MALA(), space, steps=1, step_size=0.4)
    for place in trace.x:
        x = one.sample(GAUSSIAN, x, generator=stream, temperature=0.5).x
        torch.testing.assert_close(place, x)


def test_a_trace_has_no_graph_and_leaves_the_energy_as_it_was() -> None:
    network = MLPEnergy(2, (8,))
    trace = Sampler(MALA(), Unbounded(2), steps=1).trace(
        network, n=4, draws=3, generator=generator()
    )
    assert not trace.x.requires_grad
    assert all(weight.requires_grad and weight.grad is None for weight in network.parameters())


# Schedules.


def test_ladders_have_their_ends_and_their_spacing() -> None:
    ladder = schedules.geometric(10.0, 0.01, 4)
    torch.testing.assert_close(ladder, torch.tensor([10.0, 1.0, 0.1, 0.01]))
    # Karras et al. 2022, equation 5 with sigma from 80 to .002.
    steps = torch.arange(18, dtype=torch.float64) / 17
    expected = (80 ** (1 / 7) + steps * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(schedules.karras(80.0, 0.002, 18), expected.float())
    linear = schedules.karras(1.0, 3.0, 5, rho=1.0)
    torch.testing.assert_close(linear, torch.tensor([1.0, 1.5, 2.0, 2.5, 3.0]))
    large = schedules.karras(10.0, 0.01, 4, rho=1e6)
    torch.testing.assert_close(large, ladder, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedules.geometric(0.0, 1.0, 5), "expected a positive first, got 0.0"),
        (lambda: schedules.karras(1.0, 2.0, 5, rho=-1.0), "positive rho, got -1.0"),
        (lambda: schedules.karras(1.0, 2.0, 1), "rungs >= 2"),
        (lambda: falling(1.0, 0.0), "positive and finite noise levels, got"),
        (
            lambda: falling(-1.0, 0.5),
            r"positive and finite noise levels, got \[\[-1.0\], \[0.5\]\]",
        ),
        (lambda: falling(), "positive and finite noise levels, got"),
        (lambda: anneal([]), "at least one stage"),
        (lambda: anneal([Stage(GAUSSIAN, 1, 0.1), Stage(GAUSSIAN, 1, 0.0)]), "positive step_size"),
        (lambda: anneal([Stage(GAUSSIAN, 1, -0.1)]), "positive step_size, got -0.1"),
        (lambda: anneal([Stage(GAUSSIAN, -1, 0.1)]), "steps >= 0, got -1"),
        (lambda: anneal([Stage(GAUSSIAN, 1, 0.1, -1.0)]), "temperature >= 0, got -1.0"),
    ],
)
def test_impossible_paths_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def anneal(stages: list[Stage]) -> object:
    return Sampler(MALA(), steps=1).anneal(stages, torch.zeros(2, 2), generator=generator())


def falling(*levels: float) -> list[Stage]:
    network = MLPEnergy(2, (4,), condition_dimension=1)
    return noise_path(network, torch.tensor(levels).unsqueeze(-1), steps=1, step_size=0.1)


def test_a_noise_path_needs_an_energy_that_takes_the_level() -> None:
    with pytest.raises(TypeError, match="Gaussian takes no condition"):
        noise_path(GAUSSIAN, schedules.geometric(1.0, 0.1, 3), steps=1, step_size=0.1)
