"""Strings: what lies in the space, their enumeration and their reference distribution."""

from __future__ import annotations

import math

import pytest
import torch
from problems import generator

from ebrl.energies import FunctionEnergy
from ebrl.estimators import exact_log_normalizer
from ebrl.spaces import Strings, string_lengths

SPACE = Strings(3, 5, first=2, shortest=1)  # of the categories 2, 3, 4


def test_the_states_are_all_the_strings_once_and_index_finds_each() -> None:
    states = SPACE.states()
    assert len(states) == 3 + 9 + 27
    assert len(states.unique(dim=0)) == len(states)
    assert SPACE.contains(states).all()
    assert SPACE.index(states).equal(torch.arange(len(states)))


@pytest.mark.parametrize(
    "outside",
    [[2, 0, 3], [1, 0, 0], [5, 0, 0], [0, 0, 0], [2, -1, 0]],
    ids=["a gap", "below", "above", "too short", "negative"],
)
def test_a_row_that_is_no_string_lies_outside(outside: list[int]) -> None:
    assert not SPACE.contains(torch.tensor(outside))


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        SPACE.contains(torch.ones(4, dtype=torch.long))


def test_the_reference_draws_what_its_log_density_says() -> None:
    states = SPACE.states()
    law = SPACE.reference_log_density(states).exp()
    torch.testing.assert_close(law.sum(), torch.tensor(1.0))
    n = 20_000
    drawn = SPACE.reference((n,), generator(0))
    counts = torch.bincount(SPACE.index(drawn), minlength=len(states)) / n
    assert ((counts - law).abs() <= 5 * (law / n).sqrt()).all()


def test_enumeration_sums_over_every_length() -> None:
    energy = FunctionEnergy(lambda x: string_lengths(x) * math.log(3.0))
    value = exact_log_normalizer(energy, SPACE)  # each length has weight 1
    torch.testing.assert_close(value, torch.tensor(3.0, dtype=torch.float64).log())


@pytest.mark.parametrize("arguments", [(0, 5), (3, 1)])
def test_a_space_without_strings_is_refused(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="longest"):
        Strings(*arguments)


def test_too_many_strings_to_enumerate_are_refused() -> None:
    with pytest.raises(ValueError, match="enumerate"):
        Strings(30, 100).states()
