"""The greedy policy outside of Python: traced, exported, and as ONNX; equal to `predict`."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor, nn

from ebrl.agents import EnergyActorCritic, GreedyPolicy, SoftQ
from ebrl.agents.exporting import save_onnx

SMALL: dict[str, Any] = {
    **{"learning_starts": 10, "batch_size": 4, "buffer_size": 60, "seed": 0},
    "policy_kwargs": {"net_arch": [8]},
}


def actor_critic(components: int, env: Any = "Pendulum-v1", **more: Any) -> EnergyActorCritic:
    return EnergyActorCritic("MlpPolicy", env, components=components, **SMALL, **more)


AGENTS = {
    "one": lambda: actor_critic(1),
    "four": lambda: actor_critic(4),
    "four, normalised": lambda: actor_critic(4, normalization="batch", target="none"),
    "soft_q": lambda: SoftQ("MlpPolicy", "CartPole-v1", **SMALL),
    "soft_q, normalised": lambda: SoftQ(
        "MlpPolicy", "CartPole-v1", normalization="batch", target="none", **SMALL
    ),
}


@pytest.fixture(params=AGENTS)
def agent(request: pytest.FixtureRequest) -> Any:
    return AGENTS[request.param]().learn(20)


def parts(agent: Any) -> tuple[GreedyPolicy, Tensor, Tensor, np.ndarray]:
    """The module, two observations and five, and what `predict` says of the five."""
    module = GreedyPolicy(agent)
    (two,), (five,) = module.examples(2), module.examples(5, seed=1)
    acted, _ = agent.predict(five.numpy(), deterministic=True)
    return module, two, five, acted


def run_onnx(path: Path, observations: Tensor) -> np.ndarray:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path))
    (name,) = (one.name for one in session.get_inputs())
    return session.run(None, {name: observations.numpy()})[0]


def export_as_before_dynamo(module: nn.Module, two: Tensor, path: Path) -> None:
    pytest.importorskip("onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is deprecated, and says so
        batch = {"observation": {0: "batch"}}
        arguments: dict[str, Any] = {"input_names": ["observation"], "dynamic_axes": batch}
        torch.onnx.export(module, (two,), path, dynamo=False, **arguments)


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
    batch = {"observations": ({0: torch.export.Dim("batch")},)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (two,), dynamic_shapes=batch)
    np.testing.assert_allclose(program.module()(five).detach().numpy(), acted, atol=1e-5)
    agent.learn(10, reset_num_timesteps=False)


def test_an_onnx_file_of_the_older_exporter_acts_as_predict(agent: Any, tmp_path: Path) -> None:
    module, two, five, acted = parts(agent)
    export_as_before_dynamo(module, two, tmp_path / "policy.onnx")
    np.testing.assert_allclose(run_onnx(tmp_path / "policy.onnx", five), acted, atol=1e-5)
    agent.learn(10, reset_num_timesteps=False)


@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
def test_energies_in_an_onnx_file_are_those_of_the_critic(
    normalization: Any, tmp_path: Path
) -> None:
    # The action is the argument of a minimum, which may be right where the energies are wrong.
    agent = actor_critic(4, normalization=normalization).learn(20)

    class Energies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy = agent.policy

        def forward(self, observation: Tensor) -> Tensor:
            means = torch.tanh(self.policy.proposal(observation).mean)
            with torch.no_grad():
                return self.policy.critic.given_preprocessed(observation)(means)

    _, two, five, _ = parts(agent)
    export_as_before_dynamo(Energies().eval(), two, tmp_path / "energies.onnx")
    expected = Energies()(five).numpy()
    np.testing.assert_allclose(run_onnx(tmp_path / "energies.onnx", five), expected, atol=1e-5)


def test_an_onnx_file_normalises_observations_and_scales_actions(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    agent = actor_critic(4, env).learn(20)
    path = tmp_path / "policy.onnx"
    assert save_onnx(agent, path, {"environment": "Pendulum-v1"}) < 1e-5
    for count in (1, 7):
        (raw,) = GreedyPolicy(agent).examples(count, seed=2)
        acted, _ = agent.predict(agent.normalize_observation(raw.numpy()), deterministic=True)
        np.testing.assert_allclose(run_onnx(path, raw), acted, atol=2e-5)  # torques of up to 2
    onnx = pytest.importorskip("onnx")
    facts = {one.key: one.value for one in onnx.load(path).metadata_props}
    assert facts["environment"] == "Pendulum-v1"
    agent.learn(10, reset_num_timesteps=False)


@pytest.mark.slow
def test_a_policy_whose_file_acts_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    agent = actor_critic(1)
    acted = agent.predict
    monkeypatch.setattr(agent, "predict", lambda *a, **k: (acted(*a, **k)[0] + 1e-3, None))
    with pytest.raises(RuntimeError, match="actions that differ by"):
        save_onnx(agent, tmp_path / "policy.onnx")
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*AGENTS, "sac"])
def test_save_onnx_takes_every_agent(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    sac: Any = lambda: SAC("MlpPolicy", "Pendulum-v1", **SMALL)  # noqa: E731
    agent = {**AGENTS, "sac": sac}[name]().learn(20)
    assert save_onnx(agent, tmp_path / "policy.onnx") < 1e-5
    agent.learn(10, reset_num_timesteps=False)
