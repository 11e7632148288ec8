"""The running statistics of `normalize:`, saved beside the agent."""

from __future__ import annotations

import numpy as np
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd

from ebrl.command.runs.folder import Run, write_json


def save_normalization(agent: OffPolicyAlgorithm, run: Run) -> None:
    """Write RUN/normalization.json where the agent was trained on normalised observations.

    An agent that is loaded by itself wants `clip((observation - mean) / sqrt(var + epsilon),
    -clip, clip)`; a dictionary observation has an entry a key.
    """
    normalization = agent.get_vec_normalize_env()
    if normalization is None or not normalization.norm_obs:
        return
    moments = normalization.obs_rms
    by_key = moments if isinstance(moments, dict) else {"observation": moments}
    write_json(
        run.folder / "normalization.json",
        {
            "epsilon": normalization.epsilon,
            "clip": normalization.clip_obs,
            "moments": {key: _as_lists(one) for key, one in by_key.items()},
        },
    )


def _as_lists(moments: RunningMeanStd) -> dict[str, list]:
    return {"mean": np.asarray(moments.mean).tolist(), "var": np.asarray(moments.var).tolist()}
