"""Arrays, and dictionaries of arrays, are mapped alike."""

from __future__ import annotations

import numpy as np

from ebrl.agents.demonstrations import transitions_of
from ebrl.agents.observations import map_arrays


def test_dictionaries_are_mapped_key_by_key_in_the_order_of_the_first() -> None:
    first = {"b": np.ones(2), "a": {"c": np.zeros(1)}}
    second = {"a": {"c": np.ones(1)}, "b": np.ones(2)}
    total = map_arrays(np.add, first, second)
    assert list(total) == ["b", "a"]
    np.testing.assert_array_equal(total["b"], [2, 2])
    np.testing.assert_array_equal(total["a"]["c"], [1])


def test_a_list_is_an_array() -> None:
    stacked = map_arrays(lambda *each: np.stack(each), [1.0, 2.0], [3.0, 4.0])
    np.testing.assert_array_equal(stacked, [[1, 2], [3, 4]])


def test_episodes_of_dictionaries_are_joined_without_a_step_between_them() -> None:
    flags = {name: np.zeros(2, bool) for name in ("terminations", "truncations")}
    others = {"actions": np.zeros((2, 1)), "rewards": np.zeros(2), **flags}
    episodes = [{"observations": {"x": np.arange(3) + start}, **others} for start in (0, 10)]
    joined = transitions_of(episodes)
    np.testing.assert_array_equal(joined.observations["x"], [0, 1, 10, 11])
    np.testing.assert_array_equal(joined.next_observations["x"], [1, 2, 11, 12])
