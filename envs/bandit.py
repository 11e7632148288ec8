"""`Bandit-v0`: one action, one reward, done; the reward is a known function of the action.

With one step the optimal soft policy is `p(a) ∝ exp(r(a) / temperature)` on the box
`[-1, 1]^d`, so a quadrature in one or two dimensions knows everything about it
(`bandit_oracle.py`). Each shape of reward is there for a fault that it reveals:

=========== ========== ===========================================================
shape       dimensions what it reveals
=========== ========== ===========================================================
`quadratic` 1, 2       wrong width or temperature; axes exchanged (widths differ)
`two_modes` 1, 2       a lost mode, or modes found but weighted .5/.5 (they are .7/.3)
`bound`     1, 2       a wrong Jacobian or clipping: the best action is outside the box
`ring`      2          a policy that averages its modes: the mean action is a poor one
`banana`    2          a policy that assumes independent action coordinates
`flat`      1, 2       a biased entropy: the policy is uniform, its entropy `d log 2`
=========== ========== ===========================================================

Rewards are `REFERENCE_TEMPERATURE` times a log-density, so that the policy at that temperature is
that density, cut at the bounds; between temperatures .1 and 1 every shape keeps its character.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

REFERENCE_TEMPERATURE = 0.2
"""Temperature at which the soft policy of a shape is the density that its reward came from."""

Reward = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # (*batch, d) -> (*batch,)

QUADRATIC_MEAN = np.array([0.25, -0.3])
QUADRATIC_SD = np.array([0.12, 0.2])
MODE_MEANS = np.array([[-0.5, -0.3], [0.5, 0.3]])
MODE_WEIGHTS = np.array([0.7, 0.3])
MODE_SD = np.array([0.12, 0.18])
BOUND_MEAN = np.array([1.5, -1.4])
BOUND_SD = np.array([0.3, 0.4])
RING_RADIUS, RING_SD = 0.6, 0.08
BANANA_SD = np.array([0.3, 0.1])
BANANA_BEND, BANANA_BASE = 2.0, -0.5


def _gaussian(
    actions: NDArray[np.float64], mean: NDArray[np.float64], sd: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Reward with the optimum 0 at `mean`; `actions (*batch, d)` -> `(*batch,)`."""
    d = actions.shape[-1]
    z = (actions - mean[:d]) / sd[:d]  # (*batch, d)
    return -0.5 * REFERENCE_TEMPERATURE * np.square(z).sum(-1)


def _quadratic(actions: NDArray[np.float64]) -> NDArray[np.float64]:
    return _gaussian(actions, QUADRATIC_MEAN, QUADRATIC_SD)


def _bound(actions: NDArray[np.float64]) -> NDArray[np.float64]:
    return _gaussian(actions, BOUND_MEAN, BOUND_SD)


def _two_modes(actions: NDArray[np.float64]) -> NDArray[np.float64]:
    d = actions.shape[-1]
    z = (actions[..., None, :] - MODE_MEANS[:, :d]) / MODE_SD[:d]  # (*batch, 2, d)
    log_peaks = np.log(MODE_WEIGHTS) - np.log(MODE_SD[:d] * math.sqrt(2 * math.pi)).sum()
    log_components = log_peaks - 0.5 * np.square(z).sum(-1)  # (*batch, 2)
    return REFERENCE_TEMPERATURE * np.logaddexp(log_components[..., 0], log_components[..., 1])


def _ring(actions: NDArray[np.float64]) -> NDArray[np.float64]:
    # In the squared radius, so that the reward is smooth at the centre too; to first order
    # |a|^2 - R^2 = 2 R (|a| - R), which makes RING_SD the standard deviation of the radius.
    z = (np.square(actions).sum(-1) - RING_RADIUS**2) / (2 * RING_RADIUS * RING_SD)
    return -0.5 * REFERENCE_TEMPERATURE * np.square(z)


def _banana(actions: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y = actions[..., 0], actions[..., 1]
    z = np.stack([x, y - BANANA_BASE - BANANA_BEND * np.square(x)], -1) / BANANA_SD
    return -0.5 * REFERENCE_TEMPERATURE * np.square(z).sum(-1)


def _flat(actions: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.zeros(actions.shape[:-1])


class Shape(NamedTuple):
    """A reward and where it is defined; `modes` counts the separate regions of high reward."""

    reward: Reward
    dimensions: tuple[int, ...]
    modes: int


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "quadratic": Shape(_quadratic, (1, 2), 1),
        "two_modes": Shape(_two_modes, (1, 2), 2),
        "bound": Shape(_bound, (1, 2), 1),
        "ring": Shape(_ring, (2,), 1),
        "banana": Shape(_banana, (2,), 1),
        "flat": Shape(_flat, (1, 2), 1),
    }
)
"""Every shape of reward, by the name that `gymnasium.make(..., shape=name)` takes."""


def check_shape(shape: str, dimension: int) -> None:
    """Raise `ValueError` unless this shape of reward exists in this number of dimensions."""
    if shape not in SHAPES:
        raise ValueError(f"unknown shape {shape!r}; the known shapes are: {', '.join(SHAPES)}")
    if dimension not in SHAPES[shape].dimensions:
        known = " or ".join(str(d) for d in SHAPES[shape].dimensions)
        raise ValueError(f"shape {shape!r} exists for dimension={known}, got {dimension!r}")


def check_actions(shape: str, actions: ArrayLike, context: float) -> NDArray[np.float64]:
    """The actions as an array `(*batch, d)`; `ValueError` if this shape has no such actions."""
    array = np.asarray(actions, dtype=np.float64)
    if array.ndim == 0:
        raise ValueError("actions must have the shape (*batch, dimension), got a single number")
    check_shape(shape, array.shape[-1])
    if context not in (1.0, -1.0):
        raise ValueError(f"context must be 1 or -1, got {context}")
    return array


def bandit_reward(shape: str, actions: ArrayLike, context: float = 1.0) -> NDArray[np.float64]:
    """The exact expected reward, which is also Q: `actions (*batch, d)` -> `(*batch,)`.

    `context` is the observation, 1 or -1; in context -1 the reward of `a` is that of `-a`.

    Raises:
        ValueError: For an unknown shape, one without `d` dimensions, and another context.
    """
    array = check_actions(shape, actions, context)
    return SHAPES[shape].reward(context * array)


def reward_upper_bound(shape: str, dimension: int) -> float:
    """A number that no reward in the box exceeds: its maximum, for `two_modes` within 1e-4.

    Raises:
        ValueError: For an unknown shape, and one without this number of dimensions.
    """
    check_shape(shape, dimension)
    if shape == "bound":
        return float(_bound(np.clip(BOUND_MEAN[:dimension], -1.0, 1.0)))
    if shape == "two_modes":
        # Left of 0 the right-hand mode adds at most its value at 0; right of 0 the reward is lower.
        far_mode = math.exp(-0.5 * (MODE_MEANS[1, 0] / MODE_SD[0]) ** 2)
        log_peak = -np.log(MODE_SD[:dimension] * math.sqrt(2 * math.pi)).sum()
        weight = MODE_WEIGHTS[0] + MODE_WEIGHTS[1] * far_mode
        return REFERENCE_TEMPERATURE * float(math.log(weight) + log_peak)
    return 0.0


class BanditEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """A continuous bandit with a known reward; every episode is one step and then terminated.

    Observation `(1,)`: the context, 1 (or, with `mirrored`, 1 or -1 with equal chance). Action
    `(dimension,)` in `[-1, 1]`. The reward is `bandit_reward(shape, action, context)`.

    Args:
        shape: a name in `SHAPES`.
        dimension: number of action coordinates.
        mirrored: draw the context at each reset; in context -1 the reward of `a` is that of `-a`,
            so that an agent which ignores its observation cannot be right.
        reward_noise: standard deviation of Gaussian noise added to the reward; it changes neither
            the soft policy nor the expected value.

    Raises:
        ValueError: For an unknown shape or dimension, and negative or non-finite noise.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        shape: str = "two_modes",
        dimension: int = 1,
        mirrored: bool = False,
        reward_noise: float = 0.0,
    ) -> None:
        check_shape(shape, dimension)
        if not 0 <= reward_noise < math.inf:
            raise ValueError(f"reward_noise must be finite and >= 0, got {reward_noise}")
        self.shape, self.dimension = shape, dimension
        self.mirrored, self.reward_noise = mirrored, reward_noise
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (dimension,), np.float32)
        self._context: float | None = None  # None between episodes

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode; `options` is ignored, as Gymnasium permits."""
        super().reset(seed=seed)
        self._context = -1.0 if self.mirrored and self.np_random.random() < 0.5 else 1.0
        return np.array([self._context], dtype=np.float32), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take the only action of the episode.

        Raises:
            gymnasium.error.ResetNeeded: If no episode is under way.
            ValueError: For an action of the wrong shape, not finite, or outside the box: clipped,
                it would put a point mass on the bound that the exact policy does not have.
        """
        if self._context is None:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset() before step()")
        array = np.asarray(action, dtype=np.float64)
        if array.shape != (self.dimension,) or not (np.abs(array) <= 1.0).all():
            raise ValueError(
                f"the action must have the shape ({self.dimension},) and lie in [-1, 1], "
                f"got {action!r}"
            )
        reward = float(bandit_reward(self.shape, array, self._context))
        if self.reward_noise > 0:
            reward += self.reward_noise * float(self.np_random.standard_normal())
        observation = np.array([self._context], dtype=np.float32)
        self._context = None
        return observation, reward, True, False, {}
