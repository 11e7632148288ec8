"""Small worlds whose optimal soft policy is known exactly.

Importing this package registers them with Gymnasium; this line imports and makes:

    gymnasium.make("ebrl.envs:Bandit-v0", shape="two_modes", dimension=1)
    gymnasium.make("ebrl.envs:Chain-v0", states=8, slip=0.1)

The answers: `solve_bandit("two_modes", 1, temperature)` by quadrature and
`solve_chain(env.unwrapped.model(), discount, temperature)` by soft value iteration. Continuous
actions carry Lebesgue measure (differential entropy), discrete ones counting measure.
"""

from __future__ import annotations

import gymnasium

from .bandit import (
    REFERENCE_TEMPERATURE,
    SHAPES,
    BanditEnv,
    Shape,
    bandit_reward,
    reward_upper_bound,
)
from .bandit_oracle import (
    BanditSolution,
    bandit_histogram,
    bandit_log_density,
    mode_index,
    sample_bandit,
    solve_bandit,
)
from .chain import ChainEnv, ChainModel
from .chain_oracle import (
    ChainSolution,
    PolicyValue,
    evaluate_chain,
    policy_entropy,
    sample_chain,
    solve_chain,
)
from .total_variation import total_variation, total_variation_floor

__all__ = [
    "REFERENCE_TEMPERATURE",
    "SHAPES",
    "BanditEnv",
    "BanditSolution",
    "ChainEnv",
    "ChainModel",
    "ChainSolution",
    "PolicyValue",
    "Shape",
    "bandit_histogram",
    "bandit_log_density",
    "bandit_reward",
    "evaluate_chain",
    "mode_index",
    "policy_entropy",
    "reward_upper_bound",
    "sample_bandit",
    "sample_chain",
    "solve_bandit",
    "solve_chain",
    "total_variation",
    "total_variation_floor",
]

gymnasium.register("Bandit-v0", entry_point="ebrl.envs.bandit:BanditEnv")
gymnasium.register("Chain-v0", entry_point="ebrl.envs.chain:ChainEnv")
