"""A training by the clock: its schedule, its end, and what a stop leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from problems import generator
from torch import Tensor

from ebrl import objectives
from ebrl.networks import MLPEnergy
from ebrl.training import Training, fit, newest_checkpoint, processes

MINUTES = 3 / 60
LONG = 10**9  # steps that no clock allows


def falling(done: float) -> float:
    return 1 - done


def train(folder: Path | None = None, **options: Any) -> tuple[Training, list[float]]:
    """Return a training of the plane's normal law, and the learning rate of every step."""
    rates: list[float] = []

    def rate(training: Training, metrics: dict[str, Tensor]) -> None:
        rates.append(training.optimizer.param_groups[0]["lr"])

    torch.manual_seed(0)
    training = fit(
        MLPEnergy(2, (8,)),
        torch.randn(64, 2),
        objectives.DenoisingScoreMatching(0.5),
        generator=generator(),
        batch_size=16,
        learning_rate=1.0,
        schedule=falling,
        folder=folder,
        checkpoint_every=10**6,
        callbacks=[rate, *options.pop("callbacks", [])],
        **{"steps": LONG, "minutes": MINUTES, **options},
    )
    return training, rates


def test_the_schedule_ends_with_the_clock(tmp_path: Path) -> None:
    training, rates = train(tmp_path)
    assert 60 * MINUTES <= training.seconds < 60 * MINUTES + 10  # a step may be slow
    assert len(rates) == training.step < LONG
    assert sorted(rates, reverse=True) == rates
    assert rates[-1] < 0.3 * rates[0]
    assert newest_checkpoint(tmp_path / "checkpoints")[1]["step"] == training.step


def test_steps_that_are_over_sooner_end_it() -> None:
    training, rates = train(steps=5, minutes=10.0)
    by_steps, expected = train(steps=5, minutes=None)
    assert training.step == by_steps.step == 5
    assert rates == pytest.approx(expected, abs=1e-3)


def test_a_stopped_training_takes_the_time_that_is_left(tmp_path: Path) -> None:
    def stop(training: Training, metrics: dict[str, Tensor]) -> None:
        if training.seconds > 30 * MINUTES:
            training.save(tmp_path / "checkpoints")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, callbacks=[stop])
    before = newest_checkpoint(tmp_path / "checkpoints")[1]
    assert 30 * MINUTES < before["seconds"] < 60 * MINUTES
    training, rates = train(tmp_path, resume=True)
    assert 60 * MINUTES <= training.seconds < 60 * MINUTES + 10
    assert training.step == before["step"] + len(rates)
    assert rates[0] == pytest.approx(falling(before["seconds"] / (60 * MINUTES)), abs=0.1)


def test_minutes_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for minutes in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="expected minutes > 0"):
            train(minutes=minutes)
    monkeypatch.setattr(processes, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="give steps"):
        train()
