"""`Chain-v0`: a walk between a small reward near by and a large one far away.

    end 0 (near_reward) <- 1 <- 2 -> ... -> states - 1 (far_reward)

An episode ends when the walk enters an end, which pays that end's reward, or by chance after any
step. The chance of stopping makes episodes finite under every policy. A time limit would not do: it
is not part of the observation, and the exact answer would depend on what the agent cannot see.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

MOVES = (-1, 1, 0)  # of the actions left, right and, where there is one, stay


class ChainModel(NamedTuple):
    """The world as tables, for `solve_chain`. S states, A actions.

    `transition` is the probability of being in a state *and going on*: what is missing from 1 has
    terminated. Rows of states where nobody acts (`acting` false: the two ends) are zero.
    """

    transition: NDArray[np.float64]  # (S, A, S)
    reward: NDArray[np.float64]  # (S, A), expected
    start: NDArray[np.float64]  # (S,), distribution of the first state
    acting: NDArray[np.bool_]  # (S,)


class ChainEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """A chain of states with a reward at either end; actions 0 left, 1 right (and 2 stay).

    Observation `(states,)`: the state, one-hot.

    Args:
        states: length of the chain with both ends, at least 3.
        slip: probability that an action is replaced by one drawn uniformly from all actions.
        near_reward: reward of entering state 0.
        far_reward: reward of entering state `states - 1`.
        stop: probability that the episode terminates after any step, whatever was done.
        stay: whether there is a third action, that does not move.
        start: first state of an episode; None draws it uniformly from those between the ends.

    Raises:
        ValueError: For an argument outside what is described above.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        states: int = 8,
        slip: float = 0.1,
        near_reward: float = 0.5,
        far_reward: float = 2.0,
        stop: float = 0.02,
        stay: bool = False,
        start: int | None = None,
    ) -> None:
        if states < 3:
            raise ValueError(f"states must be at least 3 (two ends and one between), got {states}")
        for name, probability in (("slip", slip), ("stop", stop)):
            if not 0 <= probability <= 1:
                raise ValueError(f"{name} is a probability, 0 to 1, got {probability}")
        if not (math.isfinite(near_reward) and math.isfinite(far_reward)):
            raise ValueError(f"rewards must be finite, got {near_reward} and {far_reward}")
        if start is not None and not 0 < start < states - 1:
            raise ValueError(f"start must lie between the ends, 1 to {states - 2}, got {start}")
        self.states, self.slip, self.stop, self.start = states, slip, stop, start
        self.near_reward, self.far_reward = near_reward, far_reward
        self.actions = 3 if stay else 2
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (states,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(self.actions)
        self._state: int | None = None  # None between episodes

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode; `options` is ignored, as Gymnasium permits."""
        super().reset(seed=seed)
        drawn = self.start is None
        self._state = int(self.np_random.integers(1, self.states - 1)) if drawn else self.start
        return self._observation(), {}

    def step(
        self, action: np.int64
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move, or slip.

        Raises:
            gymnasium.error.ResetNeeded: If no episode is under way.
            ValueError: For what is not one of the actions.
        """
        if self._state is None:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset() before step()")
        if not self.action_space.contains(action):
            raise ValueError(f"the action must be an integer in 0..{self.actions - 1}: {action!r}")
        if self.np_random.random() < self.slip:
            action = self.np_random.integers(self.actions)
        self._state += MOVES[action]
        observation = self._observation()
        at_near, at_far = self._state == 0, self._state == self.states - 1
        reward = self.near_reward if at_near else self.far_reward if at_far else 0.0
        terminated = at_near or at_far or bool(self.np_random.random() < self.stop)
        if terminated:
            self._state = None
        return observation, float(reward), terminated, False, {}

    def model(self) -> ChainModel:
        """The same world as tables, derived from the arguments and not from the code of `step`."""
        last = self.states - 1
        chosen = (1 - self.slip) * np.eye(self.actions) + self.slip / self.actions  # (A, A)
        transition = np.zeros((self.states, self.actions, self.states))
        reward = np.zeros((self.states, self.actions))
        for state in range(1, last):
            for effect in range(self.actions):
                target, probability = state + MOVES[effect], chosen[:, effect]  # int, (A,)
                if target == 0:
                    reward[state] += probability * self.near_reward
                elif target == last:
                    reward[state] += probability * self.far_reward
                else:
                    transition[state, :, target] += probability * (1 - self.stop)
        acting = np.ones(self.states, dtype=np.bool_)
        acting[[0, last]] = False
        start = acting / acting.sum() if self.start is None else np.eye(self.states)[self.start]
        return ChainModel(transition=transition, reward=reward, start=start, acting=acting)

    def _observation(self) -> NDArray[np.float32]:
        observation = np.zeros(self.states, dtype=np.float32)
        observation[self._state] = 1.0
        return observation
