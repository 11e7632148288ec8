"""Ranges of the numbers that a soft agent takes, checked before it builds anything."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

MAX_COUNT = 2**31  # more steps, rows or draws than that are a mistake

WHOLE = {  # argument: its smallest value
    "buffer_size": 1,
    "learning_starts": 0,
    "batch_size": 1,
    "gradient_steps": -1,
    "n_steps": 1,
    "target_update_interval": 1,
    "policy_delay": 1,
    "stats_window_size": 1,
    "candidates": 1,
    "components": 1,
    "acting_candidates": 1,
    "moves": 0,
}
FRACTIONS = ("gamma", "tau")  # from 0 to 1


def check_agent_arguments(agent: Any) -> None:
    """Raise ValueError for an argument of the agent that is out of its range."""
    given = vars(agent)
    for name, least in WHOLE.items():
        value = given.get(name, given.get(f"_{name}", least))  # or the agent does not take it
        if not _is_whole(value):
            raise ValueError(f"expected {name} to be a whole number, got {value!r}")
        if value < least:
            raise ValueError(f"expected {name} >= {least}, got {value!r}")
        if value >= MAX_COUNT:
            raise ValueError(f"expected {name} below {MAX_COUNT:,}, got {value:,}")
    frequency = agent.train_freq[0] if isinstance(agent.train_freq, tuple) else agent.train_freq
    if not _is_whole(frequency) or frequency < 1:
        raise ValueError(f"expected train_freq of at least one step, got {agent.train_freq!r}")
    for name in FRACTIONS:
        value = getattr(agent, name)
        if not _is_number(value) or not 0 <= value <= 1:
            raise ValueError(f"expected {name} between 0 and 1, got {value!r}")
    share = given.get("averaging", 0.0)  # or the agent does not take it
    if not _is_number(share) or not 0 <= share <= 1:
        raise ValueError(f"expected averaging between 0 and 1, got {share!r}")
    decay = given.get("adam_beta1", 0.0)  # or the agent does not take it
    if not _is_number(decay) or not 0 <= decay < 1:
        raise ValueError(f"expected adam_beta1 from 0 to below 1, got {decay!r}")
    rate = agent.learning_rate  # of SB3's own types: it would refuse a NumPy number later
    if not callable(rate) and not (isinstance(rate, int | float) and 0 <= rate < math.inf):
        raise ValueError(
            f"expected learning_rate to be finite and at least 0, or a schedule, got {rate!r}"
        )


def read_temperature(ent_coef: float | str, initial: float) -> tuple[float | str, float]:
    """Return "auto" or the temperature, and where an automatic one starts.

    Args:
        ent_coef: As Stable-Baselines3 takes it: "auto", "auto_0.1", or a number from 0.
        initial: Where an automatic temperature starts, unless `ent_coef` says it.
    """
    automatic = ent_coef == "auto" or str(ent_coef).startswith("auto_")
    text = str(ent_coef).removeprefix("auto_") if ent_coef != "auto" else ""
    try:
        number = float(text or initial)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"expected ent_coef 'auto', 'auto_<start>' or a number, got {ent_coef!r}"
        ) from error
    if automatic and not 0 < number < math.inf:
        raise ValueError(f"expected initial_ent_coef finite and above 0, got {number}")
    if not 0 <= number < math.inf:
        raise ValueError(f"expected ent_coef finite and at least 0, got {number}")
    return ("auto", number) if automatic else (number, initial)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float | np.floating)
