"""The greedy policy outside of Python: one module for every exporter of torch, and ONNX files.

program = torch.export.export(GreedyPolicy(agent), (observations,))
save_onnx(agent, "policy.onnx")
"""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn
from torch.distributions import Distribution

from ebrl.storage import replacing

from .environments import learnt_statistics, seen_by

CHECKED = 64  # observations on which a written file is checked
TOLERANCE = 1e-5  # of an action, in units of the larger of 1 and the largest action


class GreedyPolicy(nn.Module):
    """The greedy action of an agent of Stable-Baselines3's shape, as `predict` returns it.

    It takes observations of the environment and returns actions in the environment's units: it
    includes the normalisation by the agent's `VecNormalize` and the scaling of actions. It shares
    the agent's weights, so that further training of the agent changes it, too.

    Args:
        agent: An agent with a finite number of actions, or with actions in a box.
    """

    low: Tensor  # of a box of actions, (*shape,)
    high: Tensor

    def __init__(self, agent: BaseAlgorithm) -> None:
        super().__init__()
        self.policy, self.action_space = agent.policy, agent.action_space
        self.observation_space = agent.observation_space
        self.keys: tuple[str, ...] = ()
        if isinstance(agent.observation_space, spaces.Dict):
            self.keys = tuple(agent.observation_space.spaces)
        self._set_normalization(agent)
        if isinstance(agent.action_space, spaces.Box):
            self.register_buffer("low", torch.as_tensor(agent.action_space.low))
            self.register_buffer("high", torch.as_tensor(agent.action_space.high))
        self.to(agent.device).eval()

    def _set_normalization(self, agent: BaseAlgorithm) -> None:
        state = learnt_statistics(agent)
        self.normalized: tuple[str, ...] = ()
        if state is None or not state["norm_obs"]:
            return
        self.clip = float(state["clip_obs"])
        self.normalized = tuple(state["norm_obs_keys"]) if self.keys else ("observation",)
        for index, key in enumerate(
            self.normalized
        ):  # a key is no name for a buffer: it may have dots
            mean, variance, _ = state["moments"][key]
            deviation = np.sqrt(variance + state["epsilon"])
            self.register_buffer(f"mean_{index}", torch.as_tensor(mean))
            self.register_buffer(f"deviation_{index}", torch.as_tensor(deviation))

    @property
    def names(self) -> tuple[str, ...]:
        """What `forward` takes: the keys of a dictionary observation, or one observation."""
        return self.keys or ("observation",)

    def forward(self, *observations: Tensor) -> Tensor:
        """Return actions `(batch, *shape)`, or indices `(batch,)`.

        Args:
            observations: `(batch, *shape)` of the agent's observation space; images have their
                channels first. A dictionary is one tensor per key, in the order of `names`.
        """
        pairs = zip(self.names, observations, strict=True)
        seen = {key: self._normalize(key, one) for key, one in pairs}
        taken = self.policy._predict(seen if self.keys else seen["observation"], deterministic=True)
        if not isinstance(self.action_space, spaces.Box):
            return taken
        taken = taken.view(-1, *self.action_space.shape)
        if self.policy.squash_output:
            return self.low + 0.5 * (taken + 1.0) * (self.high - self.low)
        return torch.minimum(torch.maximum(taken, self.low), self.high)

    def _normalize(self, key: str, observation: Tensor) -> Tensor:
        """Return an observation as `VecNormalize` does, which takes differences in float64."""
        if key not in self.normalized:
            return observation
        index = self.normalized.index(key)
        mean, deviation = self.get_buffer(f"mean_{index}"), self.get_buffer(f"deviation_{index}")
        scaled = (observation.double() - mean) / deviation
        return scaled.clamp(-self.clip, self.clip).float()

    def examples(self, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Return random observations of the agent's space, as `forward` takes them."""
        space = copy.deepcopy(self.observation_space)
        space.seed(seed)
        drawn: list[Any] = [space.sample() for _ in range(batch)]
        device = next(self.policy.parameters()).device
        columns = ([one[key] for one in drawn] for key in self.keys) if self.keys else [drawn]
        return tuple(torch.as_tensor(np.stack(column), device=device) for column in columns)


def check_packages() -> None:
    """Import what writes and runs ONNX files; ModuleNotFoundError for what is missing."""
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401


def save_onnx(
    agent: BaseAlgorithm, path: str | os.PathLike[str], facts: dict[str, str] | None = None
) -> float:
    """Write the greedy policy to an ONNX file, and check it on random observations.

    The file takes batches of any size; its inputs are the `names` of `GreedyPolicy`, its output is
    `action`. It needs onnx, onnxscript and onnxruntime.

    Args:
        agent: An agent with a finite number of actions, or with actions in a box.
        path: The file.
        facts: Written into the file's metadata.

    Returns:
        The largest difference between an action of the file and of `predict`, in units of the
        larger of 1 and the largest action.

    Raises:
        RuntimeError: If the file's actions differ from those of `predict`; nothing is written.
    """
    check_packages()
    module = GreedyPolicy(agent)
    batch = torch.export.Dim("batch")
    with _quiet_exporter():
        program = torch.onnx.export(
            module,
            module.examples(2),
            dynamo=True,
            input_names=list(module.names),
            output_names=["action"],
            dynamic_shapes={"observations": tuple({0: batch} for _ in module.names)},
            verbose=False,
        )
    assert program is not None  # it is None of the exporter before dynamo
    program.model.metadata_props.update(facts or {})
    model = program.model_proto.SerializeToString()
    difference = _difference(agent, module, model)
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"expected the ONNX file to act as predict does, got actions that differ by "
            f"{difference:.2g}: this policy cannot be exported"
        )
    with replacing(Path(path)) as file:
        file.write(model)
    return difference


def _difference(agent: BaseAlgorithm, module: GreedyPolicy, model: bytes) -> float:
    """Return how far the actions of an ONNX model are from those of `predict`."""
    import onnxruntime

    columns = [column.cpu().numpy() for column in module.examples(CHECKED, seed=1)]
    inputs = dict(zip(module.names, columns, strict=True))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (got,) = session.run(["action"], inputs)
    seen: Any = inputs if module.keys else columns[0]
    expected, _ = agent.predict(seen_by(agent, seen), deterministic=True)
    largest = max(1.0, float(np.abs(expected).max()))
    return float(np.abs(np.asarray(got, dtype=np.float64) - expected).max()) / largest


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hold back what the exporter says about itself: deprecations, and torchvision's absence.

    The argument checks of distributions, which SAC makes, are turned off: they wait for a number,
    for which a graph has no place.
    """
    logger = logging.getLogger("torch.onnx")
    level, checks = logger.level, Distribution._validate_args
    logger.setLevel(logging.ERROR)
    Distribution.set_default_validate_args(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        Distribution.set_default_validate_args(checks)
