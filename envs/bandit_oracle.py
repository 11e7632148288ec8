"""The optimal soft policy of `Bandit-v0`, by quadrature; and exact draws from it.

On the box `[-1, 1]^d` with Lebesgue measure, at temperature `alpha`,

    V = alpha log ∫ exp(r(a) / alpha) da,    log p(a) = (r(a) - V) / alpha,
    H = -∫ p log p = (V - E_p[r]) / alpha,

so the entropy is a differential one, in nats, and may be negative: the uniform policy has
`V = alpha d log 2` where the reward is 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bandit import SHAPES, bandit_reward, check_actions, check_shape, reward_upper_bound

COARSE_ORDER, FINE_ORDER = 6, 10  # Gauss-Legendre nodes a cell and axis
MIN_PANELS = 40  # an axis, however few the cells
QUADRATURE_TOLERANCE = 1e-6
MAX_NODES = 20_000_000  # of the grid; 8 bytes each in some five arrays
REJECTION_BLOCK = 1 << 17  # proposals at a time
MIN_ACCEPTANCE = 1e-6


class BanditSolution(NamedTuple):
    """The exact answer for one shape, context and temperature.

    `probabilities` and `edges` describe a histogram of `cells` equal bins an axis; axis i of
    `probabilities` is coordinate i of the action.
    """

    shape: str
    dimension: int
    temperature: float
    context: float
    value: float  # soft value V, in units of reward
    entropy: float  # differential entropy of the policy, nats
    mean_reward: float  # expected reward of the policy
    edges: NDArray[np.float64]  # (cells + 1,), the same on every axis
    probabilities: NDArray[np.float64]  # (cells,) * dimension, sums to 1
    mode_weights: NDArray[np.float64]  # (modes,), sums to 1
    error: float  # nats: the largest change of V / alpha, H and the histogram on refinement


class _Integrals(NamedTuple):
    value: float
    mean_reward: float
    entropy: float
    probabilities: NDArray[np.float64]


def solve_bandit(
    shape: str, dimension: int, temperature: float, *, cells: int = 50, context: float = 1.0
) -> BanditSolution:
    """The optimal soft policy, its value and entropy, by composite Gauss-Legendre quadrature.

    Args:
        shape: a name in `SHAPES`.
        dimension: number of action coordinates.
        temperature: alpha > 0, in units of reward.
        cells: bins per axis, even (so that the border between two modes is a border of bins). The
            quadrature has `FINE_ORDER` nodes a cell and axis, more if `cells < MIN_PANELS`.
        context: the observation, 1 or -1.

    Raises:
        ValueError: For an argument outside what is described above, and more nodes than fit in
            memory.
        ArithmeticError: If the integrals changed by more than `QUADRATURE_TOLERANCE` when the nodes
            were refined: the policy is much narrower than a cell.
    """
    _check(shape, dimension, temperature, cells, context)
    coarse, fine = (
        _integrate(shape, dimension, temperature, cells, context, order)
        for order in (COARSE_ORDER, FINE_ORDER)
    )
    error = _change(coarse, fine, temperature)
    if error > QUADRATURE_TOLERANCE:
        raise ArithmeticError(
            f"quadrature of {shape!r} at temperature {temperature} changed by {error:.1e} on "
            f"refinement, more than {QUADRATURE_TOLERANCE:.0e}: use more cells than {cells}"
        )
    edges = np.linspace(-1.0, 1.0, cells + 1)
    return BanditSolution(
        shape=shape,
        dimension=dimension,
        temperature=temperature,
        context=context,
        value=fine.value,
        entropy=fine.entropy,
        mean_reward=fine.mean_reward,
        edges=edges,
        probabilities=fine.probabilities,
        mode_weights=_mode_weights(shape, edges, fine.probabilities, context),
        error=error,
    )


def _check(shape: str, dimension: int, temperature: float, cells: int, context: float) -> None:
    check_shape(shape, dimension)
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be finite and > 0, got {temperature}")
    if cells < 2 or cells % 2:
        raise ValueError(f"cells must be even and at least 2, got {cells}")
    if (cells * FINE_ORDER) ** dimension > MAX_NODES:
        raise ValueError(f"cells={cells} in {dimension} dimensions are too many; use fewer")
    if context not in (1.0, -1.0):
        raise ValueError(f"context must be 1 or -1, got {context}")


def _change(coarse: _Integrals, fine: _Integrals, temperature: float) -> float:
    return max(
        abs(fine.value - coarse.value) / temperature,
        abs(fine.entropy - coarse.entropy),
        0.5 * float(np.abs(fine.probabilities - coarse.probabilities).sum()),
    )


def _integrate(
    shape: str, dimension: int, temperature: float, cells: int, context: float, order: int
) -> _Integrals:
    nodes, weights = np.polynomial.legendre.leggauss(order)  # on [-1, 1]
    panels = cells * max(1, math.ceil(MIN_PANELS / cells))
    centres = (2 * np.arange(panels) + 1) / panels - 1  # (panels,)
    axis = (centres[:, None] + nodes / panels).ravel()  # (panels * order,)
    axis_weights = np.tile(weights / panels, panels)  # (panels * order,), sums to 2
    grid = np.stack(np.meshgrid(*[axis] * dimension, indexing="ij"), -1)  # (n,) * d + (d,)
    volume = axis_weights if dimension == 1 else np.multiply.outer(axis_weights, axis_weights)

    rewards = bandit_reward(shape, grid, context)  # (n,) * d
    peak = rewards.max()  # subtracted, so that no exponential overflows at a low temperature
    mass = np.exp((rewards - peak) / temperature) * volume
    total = mass.sum()
    value = float(peak + temperature * np.log(total))
    mean_reward = float((mass * rewards).sum() / total)
    binned = (mass / total).reshape((cells, panels // cells * order) * dimension)
    return _Integrals(
        value=value,
        mean_reward=mean_reward,
        entropy=(value - mean_reward) / temperature,
        probabilities=binned.sum(axis=tuple(range(1, 2 * dimension, 2))),
    )


def _mode_weights(
    shape: str, edges: NDArray[np.float64], probabilities: NDArray[np.float64], context: float
) -> NDArray[np.float64]:
    centres = 0.5 * (edges[1:] + edges[:-1])
    grid = np.stack(np.meshgrid(*[centres] * probabilities.ndim, indexing="ij"), -1)
    index = mode_index(shape, grid, context)
    weights = np.bincount(index.ravel(), probabilities.ravel(), minlength=SHAPES[shape].modes)
    return weights / weights.sum()


def mode_index(shape: str, actions: ArrayLike, context: float = 1.0) -> NDArray[np.intp]:
    """Which mode an action belongs to: `(*batch, d)` -> `(*batch,)`.

    For `two_modes` 0 is the heavier one and the border is where the first coordinate is 0; the
    other shapes have one connected region, index 0.

    Raises:
        ValueError: For an unknown shape, one without `d` dimensions, and another context.
    """
    array = context * check_actions(shape, actions, context)
    if SHAPES[shape].modes == 1:
        return np.zeros(array.shape[:-1], dtype=np.intp)
    return (array[..., 0] > 0).astype(np.intp)


def bandit_log_density(solution: BanditSolution, actions: ArrayLike) -> NDArray[np.float64]:
    """Exact log-density of the optimal policy at actions in the box: `(*batch, d)` -> `(*batch,)`.

    Raises:
        ValueError: If the last axis of `actions` is not `solution.dimension`.
    """
    rewards = bandit_reward(solution.shape, _actions(solution, actions), solution.context)
    return (rewards - solution.value) / solution.temperature


def bandit_histogram(solution: BanditSolution, actions: ArrayLike) -> NDArray[np.float64]:
    """Share of the actions `(n, d)` in each cell of `solution.probabilities`.

    Raises:
        ValueError: For no actions, a wrong last axis, and one outside the box (it is in no cell).
    """
    array = _actions(solution, actions).reshape(-1, solution.dimension)
    if not len(array) or not (np.abs(array) <= 1.0).all():
        raise ValueError("a histogram needs at least one action, and all of them in [-1, 1]")
    counts, _ = np.histogramdd(array, bins=[solution.edges] * solution.dimension)
    return counts / len(array)


def sample_bandit(
    solution: BanditSolution, count: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """`count` independent exact draws from the optimal policy, `(count, dimension)`.

    Rejection from the uniform distribution under the known upper bound of the reward: it uses
    no grid, so it checks the quadrature. The work per draw grows as the policy narrows, with
    `temperature ** (-dimension / 2)` where the reward is quadratic.

    Raises:
        ValueError: If `count` is negative, or the temperature so low that fewer than one proposal
            in a million would be accepted.
    """
    if count < 0:
        raise ValueError(f"count must be >= 0, got {count}")
    shape, dimension = solution.shape, solution.dimension
    bound = reward_upper_bound(shape, dimension)
    acceptance = math.exp((solution.value - bound) / solution.temperature) / 2**dimension
    if acceptance < MIN_ACCEPTANCE:
        raise ValueError(
            f"rejection sampling would accept {acceptance:.0e} of its proposals at temperature "
            f"{solution.temperature}: use a higher temperature"
        )
    accepted = [np.empty((0, dimension))]
    missing = count
    while missing > 0:
        proposals = generator.uniform(-1.0, 1.0, (REJECTION_BLOCK, dimension))
        excess = bandit_reward(shape, proposals, solution.context) - bound  # (block,), <= 0
        keep = generator.random(REJECTION_BLOCK) < np.exp(excess / solution.temperature)
        accepted.append(proposals[keep][:missing])
        missing -= len(accepted[-1])
    return np.concatenate(accepted)


def _actions(solution: BanditSolution, actions: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(actions, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] != solution.dimension:
        raise ValueError(
            f"actions must have the shape (*batch, {solution.dimension}), got {array.shape}"
        )
    return array
