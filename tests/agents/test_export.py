"""The greedy policy outside of Python: traced, exported, and as ONNX; equal to `predict`."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ebrl.agents import EnergyActorCritic, SoftQ

SMALL: dict[str, Any] = {"learning_starts": 10, "batch_size": 4, "buffer_size": 60, "seed": 0}


class Greedy(nn.Module):
    """The greedy action of a policy, as Stable-Baselines3's documentation exports it."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Tensor) -> Tensor:
        return self.policy(observation, deterministic=True)


def agents() -> dict[str, Any]:
    net = {"policy_kwargs": {"net_arch": [8]}}
    one, four = (
        EnergyActorCritic("MlpPolicy", "Pendulum-v1", components=count, **SMALL, **net)
        for count in (1, 4)
    )
    return {"one": one, "four": four, "soft_q": SoftQ("MlpPolicy", "CartPole-v1", **SMALL, **net)}


@pytest.fixture(params=["one", "four", "soft_q"])
def agent(request: pytest.FixtureRequest) -> Any:
    return agents()[request.param].learn(20)


def parts(agent: Any) -> tuple[Greedy, Tensor, Tensor, np.ndarray]:
    """The module, one observation and five, and what `predict` says of the five."""
    size = agent.observation_space.shape[0]
    five = torch.randn(5, size, generator=torch.Generator().manual_seed(1))
    acted, _ = agent.predict(five.numpy(), deterministic=True)
    if not isinstance(agent, SoftQ):
        acted = agent.policy.scale_action(acted)
    return Greedy(agent.policy).eval(), five[:2], five, acted


def mixed(agent: Any) -> bool:
    """Whether the greedy action compares components: its exports have the batch of the example."""
    return getattr(agent, "components", 1) > 1


def test_a_traced_policy_acts_as_predict(agent: Any) -> None:
    module, two, five, acted = parts(agent)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and says so at each use
        torch.jit.save(torch.jit.freeze(torch.jit.trace(module, two)), file)
        file.seek(0)
        loaded = torch.jit.load(file)
    np.testing.assert_allclose(loaded(five).detach().numpy(), acted, atol=1e-5)
    agent.learn(10, reset_num_timesteps=False)  # and it trains on


def test_an_exported_program_acts_as_predict(agent: Any) -> None:
    module, two, five, acted = parts(agent)
    batch = None if mixed(agent) else {"observation": {0: torch.export.Dim("batch")}}
    example = five if mixed(agent) else two
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (example,), dynamic_shapes=batch)
    np.testing.assert_allclose(program.module()(five).detach().numpy(), acted, atol=1e-5)
    agent.learn(10, reset_num_timesteps=False)


@pytest.mark.parametrize("dynamo", [False, True])
def test_an_onnx_file_acts_as_predict(agent: Any, dynamo: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    if dynamo:
        pytest.importorskip("onnxscript")
    reference = pytest.importorskip("onnx.reference")
    module, two, five, acted = parts(agent)
    batch: dict[str, Any] = {"dynamic_axes": {"observation": {0: "batch"}}}
    if mixed(agent):
        batch, two = {}, five
    elif dynamo:
        batch = {"dynamic_shapes": {"observation": {0: torch.export.Dim("batch")}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (two,),
            tmp_path / "policy.onnx",
            dynamo=dynamo,
            input_names=["observation"],
            **batch,
        )
        runs = reference.ReferenceEvaluator(str(tmp_path / "policy.onnx"))
        (answer,) = runs.run(None, {"observation": five.numpy()})
    np.testing.assert_allclose(answer, acted, atol=1e-5)
    agent.learn(10, reset_num_timesteps=False)
