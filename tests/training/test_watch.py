"""The watch on a training: what it stops, and the cure that it names."""

from __future__ import annotations

import math
import re

import pytest
import torch
from problems import generator

from ebrl import Sampler, objectives
from ebrl.kernels import MALA
from ebrl.objectives import ContrastiveDivergence, Objective
from ebrl.spaces import Box
from ebrl.training import Alarm, DivergedError, NonFiniteError
from ebrl.training.watch import advice, check_finite_weights, watch


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_alarm_rings_for_what_is_not_finite(bad: float) -> None:
    with pytest.raises(NonFiniteError, match="loss is"):
        watch(watch(Alarm(), torch.tensor(0.1)), torch.tensor(bad))
    with pytest.raises(NonFiniteError, match="energy gap is"):
        watch(Alarm(), torch.tensor(0.1), torch.tensor(bad))


def test_the_alarm_rings_for_a_gap_that_explodes() -> None:
    alarm, loss = Alarm(), torch.tensor(0.0)
    noise = torch.randn(300, generator=generator())
    for gap in noise:
        alarm = watch(alarm, loss, gap)
    for step in range(80):
        alarm = watch(alarm, loss, torch.tensor(1.05**step))
    with pytest.raises(DivergedError, match="runs away"):
        watch(alarm, loss, torch.tensor(10_000.0))


def test_the_alarm_is_quiet_for_one_wild_step_and_for_large_energies() -> None:
    alarm, loss = Alarm(), torch.tensor(0.0)
    for step in range(300):
        alarm = watch(alarm, loss, torch.tensor(-500.0 if step == 100 else 0.5))
    for _ in range(300):
        alarm = watch(alarm, loss, torch.tensor(50.0))
    before = alarm
    assert watch(alarm, loss).level == before.level
    assert alarm.updates == 600


def box(dimension: int) -> Box:
    return Box(-torch.ones(dimension), torch.ones(dimension))


@pytest.mark.parametrize(
    ("objective", "first"),
    [
        (objectives.SlicedScoreMatching(), "lower the learning rate"),
        (ContrastiveDivergence(Sampler(MALA(), steps=1)), "let the step size adapt"),
        (objectives.persistent(box(2)), "take more moves: only 3% of them"),
        (objectives.persistent(box(64)), "use walls='tanh'"),
        (objectives.EnergyMatching(objectives.persistent(box(64))), "use walls='tanh'"),
    ],
)
def test_the_advice_is_the_cure_that_applies(objective: Objective, first: str) -> None:
    said = advice(objective, {"acceptance": torch.tensor(0.03), "step_size": torch.tensor(0.01)})
    assert re.search(f"in this order: {first}", said), said


def test_weights_may_be_infinite_in_buffers_alone() -> None:
    layer = torch.nn.BatchNorm1d(2)
    layer.running_mean.fill_(-math.inf)  # as a mask is
    check_finite_weights(layer)
    layer.running_mean.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="running_mean holds NaN"):
        check_finite_weights(layer)
