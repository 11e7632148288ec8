"""The optimal soft policy of `Chain-v0` by tabular soft value iteration.

With counting measure over the actions, discount `gamma` and temperature `alpha`,

    Q(s, a) = r(s, a) + gamma E[V(s')],    V(s) = alpha log sum_a exp(Q(s, a) / alpha),
    pi(a | s) = exp((Q(s, a) - V(s)) / alpha),

whose fixed point maximises the discounted sum of `reward + alpha * entropy of the policy`
(Haarnoja et al. 2017, "Reinforcement Learning with Deep Energy-Based Policies", theorems 1, 2).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .chain import ChainModel

MAX_SWEEPS = 1_000_000


class ChainSolution(NamedTuple):
    """The exact answer for one chain, discount and temperature. S states, A actions.

    At the two ends nobody acts: there `q`, `value`, `entropy` and `expected_return` are 0 and the
    policy is uniform.
    """

    q: NDArray[np.float64]  # (S, A)
    value: NDArray[np.float64]  # (S,), soft value, in units of reward
    policy: NDArray[np.float64]  # (S, A), rows sum to 1
    entropy: NDArray[np.float64]  # (S,), of the policy, nats
    expected_return: NDArray[np.float64]  # (S,), discounted reward alone, without entropy
    start_value: float  # mean soft value of the first state
    residual: float  # largest |V - soft backup of V|; V is within residual / (1 - discount)


class PolicyValue(NamedTuple):
    """What a fixed policy earns from each state."""

    value: NDArray[np.float64]  # (S,), discounted reward + temperature * entropy
    expected_return: NDArray[np.float64]  # (S,), discounted reward


def _check(discount: float, temperature: float) -> None:
    if not 0 <= discount < 1:
        raise ValueError(f"discount must be in [0, 1), got {discount}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be finite and > 0, got {temperature}")


def _backup(model: ChainModel, value: NDArray[np.float64], discount: float) -> NDArray[np.float64]:
    return model.reward + discount * model.transition @ value  # (S, A)


def _soft_maximum(q: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    peak = q.max(-1, keepdims=True)
    return peak[:, 0] + temperature * np.log(np.exp((q - peak) / temperature).sum(-1))  # (S,)


def policy_entropy(policy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy in nats of each row: `(*batch, A)` -> `(*batch,)`, with `0 log 0 = 0`."""
    return -(policy * np.log(np.where(policy > 0, policy, 1.0))).sum(-1)


def solve_chain(
    model: ChainModel, discount: float, temperature: float, *, tolerance: float = 1e-10
) -> ChainSolution:
    """Soft value iteration until the soft-Bellman residual is at most `tolerance`.

    Args:
        model: `ChainEnv.model()`.
        discount: gamma in [0, 1).
        temperature: alpha > 0, in units of reward.
        tolerance: in units of reward.

    Raises:
        ValueError: For a discount or temperature outside its range.
        ArithmeticError: If the residual is still larger after `MAX_SWEEPS` sweeps.
    """
    _check(discount, temperature)
    value = np.zeros(len(model.acting))
    for _ in range(MAX_SWEEPS):
        q = _backup(model, value, discount)
        updated = np.where(model.acting, _soft_maximum(q, temperature), 0.0)
        residual = float(np.abs(updated - value).max())
        if residual <= tolerance:
            break
        value = updated
    else:
        raise ArithmeticError(
            f"soft-Bellman residual {residual:.1e} > tolerance {tolerance:.1e} after "
            f"{MAX_SWEEPS} sweeps: use a larger tolerance or a smaller discount than {discount}"
        )
    weights = np.exp((q - q.max(-1, keepdims=True)) / temperature)
    policy = weights / weights.sum(-1, keepdims=True)
    return ChainSolution(
        q=q,
        value=value,
        policy=policy,
        entropy=np.where(model.acting, policy_entropy(policy), 0.0),
        expected_return=evaluate_chain(model, policy, discount, temperature).expected_return,
        start_value=float(model.start @ value),
        residual=residual,
    )


def evaluate_chain(
    model: ChainModel, policy: ArrayLike, discount: float, temperature: float
) -> PolicyValue:
    """Exact soft value and return of any policy `(S, A)`, by one linear solve.

    The difference from `ChainSolution.value` is what a learnt policy loses.

    Raises:
        ValueError: For a discount or temperature outside its range, and rows that are no
            distributions.
    """
    _check(discount, temperature)
    table = np.asarray(policy, dtype=np.float64)
    if table.shape != model.reward.shape:
        raise ValueError(f"policy must have the shape {model.reward.shape}, got {table.shape}")
    if not (table >= 0).all() or not np.allclose(table.sum(-1), 1.0, rtol=0.0, atol=1e-5):
        raise ValueError("every row of the policy must be >= 0 and sum to 1")
    moves = np.einsum("sa,sat->st", table, model.transition)  # (S, S)
    reward = (table * model.reward).sum(-1)  # (S,)
    entropy = np.where(model.acting, policy_entropy(table), 0.0)  # (S,)
    earned = np.stack([reward + temperature * entropy, reward], -1)  # (S, 2)
    sums = np.linalg.solve(np.eye(len(moves)) - discount * moves, earned)
    return PolicyValue(value=sums[:, 0], expected_return=sums[:, 1])


def sample_chain(
    solution: ChainSolution, observations: ArrayLike, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Actions of the optimal policy for one-hot observations: `(*batch, S)` -> `(*batch,)`."""
    states = np.asarray(observations).argmax(-1)  # (*batch,)
    cumulative = solution.policy[states].cumsum(-1)  # (*batch, A)
    draws = generator.random(states.shape)[..., None]  # (*batch, 1)
    # The last boundary is 1 up to rounding and must never be passed, hence only those before it.
    return (draws >= cumulative[..., :-1]).sum(-1).astype(np.int64)
