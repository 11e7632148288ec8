"""Updates as one compiled program: the same training, and what happens where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.her import HerReplayBuffer
from torch import Tensor, nn

from ebrl.agents import EnergyActorCritic, SoftQ, compilation
from ebrl.agents.soft_agent import SoftAgent

# The compiler's own, the first time that it runs.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

TINY: dict[str, Any] = {"buffer_size": 300, "learning_starts": 0, "batch_size": 16, "seed": 1}
NORMALISED: dict[str, Any] = {"normalization": "batch", "target": "none", "policy_delay": 3}
EVERY_OPTION: dict[str, Any] = {
    **NORMALISED,
    "proposal_normalization": "batch",
    "unit_weights": True,
    "scale_rewards": True,
    "averaging": 0.2,
}


def schedule(remaining: float) -> float:
    """Fall to a tenth of the start over the training."""
    return 1e-3 * (0.1 + 0.9 * remaining)


def continuous(**arguments: Any) -> EnergyActorCritic:
    arguments = {**TINY, "policy_kwargs": {"net_arch": [16, 16]}, **arguments}
    return EnergyActorCritic("MlpPolicy", "Pendulum-v1", **arguments)


def discrete(**arguments: Any) -> SoftQ:
    arguments = {**TINY, "policy_kwargs": {"net_arch": [16]}, **arguments}
    return SoftQ("MlpPolicy", "CartPole-v1", **arguments)


def with_replay(agent: SoftAgent) -> SoftAgent:
    """Fill the replay with 200 transitions of random actions."""
    rng, buffer = np.random.default_rng(0), agent.replay_buffer
    assert buffer is not None
    shape = agent.observation_space.shape
    for _ in range(200):
        action = np.array([agent.action_space.sample()])
        observations = rng.normal(size=(2, 1, *shape)).astype(np.float32)
        done = np.array([rng.uniform() < 0.1])
        buffer.add(*observations, action, rng.normal(size=1), done, [{}])
    agent.set_logger(configure(None, []))
    return agent


def train(agent: SoftAgent, updates: int) -> SoftAgent:
    """Update on batches that are the same for every agent; the learning rate falls."""
    np.random.seed(3)  # noqa: NPY002, the stream that SB3's replay draws from
    for k in range(updates):
        agent._current_progress_remaining = 1 - k / updates
        agent.train(1, batch_size=16)
    return agent


def state(agent: SoftAgent) -> dict[str, Tensor]:
    """All that an update writes: parameters, statistics, temperature, moments."""
    found = dict(agent.policy.state_dict())
    for name, optimizer in agent._optimizers().items():
        for i, moments in optimizer.state_dict()["state"].items():
            found |= {f"{name}.{i}.{kind}": value for kind, value in moments.items()}
    return found


def check_acts_on_the_weights_of_now(agent: SoftAgent) -> None:
    """A compiled program writes below autograd, and what is folded must notice."""
    if isinstance(agent, SoftQ):
        return
    for _ in range(2):
        agent.train(1, batch_size=16)
        bound = agent.critic.given(torch.zeros(4, 3))
        x = torch.zeros(4, 1)
        with torch.no_grad():
            found = bound(x)
        torch.testing.assert_close(found, bound(x).detach(), rtol=1e-4, atol=1e-5)


def check_same_training(compiled: SoftAgent, eager: SoftAgent, updates: int, atol: float) -> None:
    start = {name: value.clone() for name, value in state(eager).items()}
    train(with_replay(compiled), updates)
    train(with_replay(eager), updates)
    assert compiled._compiles
    for name, value in state(eager).items():
        torch.testing.assert_close(
            state(compiled)[name], value, rtol=1e-3, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )
    moved = [
        (value - start[name]).abs().max() for name, value in state(eager).items() if name in start
    ]
    assert max(moved) > 100 * atol
    for name, value in eager._metrics.items():
        torch.testing.assert_close(compiled._metrics[name], value, rtol=1e-3, atol=10 * atol)
    check_acts_on_the_weights_of_now(compiled)


def test_five_compiled_updates_are_five_eager_ones() -> None:
    arguments = {"learning_rate": schedule, "munchausen": 0.5, "target_update_interval": 1}
    with torch._dynamo.config.patch(error_on_recompile=True):  # one program for every learning rate
        check_same_training(
            discrete(compile=True, **arguments), discrete(**arguments), updates=5, atol=1e-6
        )


@pytest.mark.slow
def test_compiled_updates_of_normalised_discrete_critics_are_the_eager_ones() -> None:
    arguments = {"normalization": "batch", "target": "none", "scale_rewards": True}
    check_same_training(
        discrete(compile=True, **arguments), discrete(**arguments), updates=20, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"components": 3, "target_update_interval": 2},
        NORMALISED,
        EVERY_OPTION,
    ],
    ids=["plain", "mixture", "normalised", "with every option"],
)
def test_a_hundred_compiled_updates_are_a_hundred_eager_ones(arguments: dict[str, Any]) -> None:
    arguments = {"learning_rate": schedule, **arguments}
    check_same_training(
        continuous(compile=True, **arguments), continuous(**arguments), updates=100, atol=2e-4
    )


class TinyImages(BaseFeaturesExtractor):
    """A convolution that compiles in seconds."""

    def __init__(self, space: spaces.Box):
        super().__init__(space, features_dim=32)
        self.convolution = nn.Conv2d(space.shape[0], 2, 8, 8)  # 36 x 36 to 4 x 4

    def forward(self, observations: Tensor) -> Tensor:
        return torch.relu(self.convolution(observations)).flatten(1)


class InADict(gym.ObservationWrapper):
    """Pendulum's observation in two parts."""

    def __init__(self) -> None:
        super().__init__(gym.make("Pendulum-v1"))
        parts = {"place": spaces.Box(-1, 1, (2,)), "speed": spaces.Box(-8, 8, (1,))}
        self.observation_space = spaces.Dict(parts)

    def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        return {"place": observation[:2], "speed": observation[2:]}


def pictures() -> FakeImageEnv:
    env = FakeImageEnv(screen_height=36, screen_width=36, n_channels=1, discrete=False)
    env.observation_space.seed(0)  # it draws its pictures from its space
    return env


def goals() -> BitFlippingEnv:
    return BitFlippingEnv(n_bits=2, continuous=True, max_steps=4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "env", "arguments"),
    [
        ("MlpPolicy", "Pendulum-v1", {"n_steps": 3}),
        ("MultiInputPolicy", goals, {"replay_buffer_class": HerReplayBuffer}),
        ("MultiInputPolicy", InADict, {}),
        ("CnnPolicy", pictures, {"nets": {"features_extractor_class": TinyImages}}),
    ],
    ids=["n-step", "HER", "dictionary", "images"],
)
def test_compiled_learning_is_eager_learning(
    policy: str, env: Any, arguments: dict[str, Any]
) -> None:
    nets = {"net_arch": [8], **arguments.pop("nets", {})}
    made = {**TINY, **EVERY_OPTION, **arguments, "learning_starts": 12, "policy_kwargs": nets}

    def learnt(steps: int, compile: bool = False) -> EnergyActorCritic:
        torch.manual_seed(0)
        where = env if isinstance(env, str) else env()
        agent = EnergyActorCritic(policy, where, compile=compile, moves=0, **made)
        return agent.learn(steps)

    start, eager, compiled = learnt(12), learnt(24), learnt(24, compile=True)
    assert compiled._compiles
    assert eager._n_updates == 12
    # Adam magnifies the rounding of gradients near 0: whole vectors are compared.
    a, b, c = (agent.policy.parameters_to_vector() for agent in (compiled, eager, start))
    assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(b - c)
    assert compiled.critic.output_scale == pytest.approx(eager.critic.output_scale.item(), rel=1e-3)


@pytest.mark.slow
def test_a_compiled_agent_that_was_saved_goes_on_as_if_it_was_not(tmp_path: Path) -> None:
    agent = train(with_replay(continuous(compile=True)), 5)
    agent.save(tmp_path / "agent")
    again = with_replay(EnergyActorCritic.load(tmp_path / "agent", env=agent.get_env()))
    assert again.compile
    train(agent, 5), train(again, 5)
    for name, value in state(agent).items():
        assert torch.equal(state(again)[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, EVERY_OPTION], ids=["plain", "with every option"])
def test_bfloat16_products_keep_float32_weights_and_learn_alike(options: dict[str, Any]) -> None:
    low, full = (
        train(with_replay(continuous(compile=True, precision=precision, **options)), 50)
        for precision in ("bfloat16", "float32")
    )
    for name, value in state(full).items():
        assert state(low)[name].dtype == value.dtype, name
    a, b = (agent.policy.parameters_to_vector() for agent in (low, full))
    start = continuous(**options).policy.parameters_to_vector()
    assert not np.array_equal(a, b)
    assert np.linalg.norm(a - b) < 0.2 * np.linalg.norm(b - start)


# ---- where nothing compiles ---------------------------------------------------------------------


def test_without_a_compiler_updates_run_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.warns(
        UserWarning, match="needs a C\\+\\+ compiler and found no 'no-such-compiler'"
    ):
        agent = with_replay(discrete(compile=True))
    train(agent, 3)
    expected = state(train(with_replay(discrete()), 3))
    assert all(torch.equal(value, expected[name]) for name, value in state(agent).items())


class Branching(FlattenExtractor):
    """Features that depend on values by a branch, which no graph holds."""

    def forward(self, observations: Tensor) -> Tensor:
        features = super().forward(observations)
        return features if bool((features > 0).any()) else -features


def test_features_that_do_not_compile_run_eagerly() -> None:
    nets = {"net_arch": [16], "features_extractor_class": Branching}
    agent = with_replay(discrete(compile=True, policy_kwargs=nets))
    with pytest.warns(UserWarning, match="SoftQ did not compile and runs eagerly"):
        train(agent, 3)
    expected = state(train(with_replay(discrete(policy_kwargs=nets)), 3))
    assert all(torch.equal(value, expected[name]) for name, value in state(agent).items())


@pytest.mark.parametrize(
    ("optimizer", "options", "got"),
    [
        (torch.optim.SGD, {}, "SGD"),
        (torch.optim.Adam, {"amsgrad": True}, r"Adam with \['amsgrad'\]"),
    ],
)
def test_an_optimizer_without_a_formula_is_refused(
    optimizer: type, options: dict[str, Any], got: str
) -> None:
    nets = {"net_arch": [8], "optimizer_class": optimizer, "optimizer_kwargs": options}
    with pytest.raises(ValueError, match=f"compile=True expects torch.optim.Adam .* got {got}"):
        discrete(compile=True, policy_kwargs=nets)


def test_other_precisions_are_refused() -> None:
    with pytest.raises(ValueError, match="precision 'float32' or 'bfloat16', got 'float16'"):
        discrete(precision="float16")


def test_a_compilation_says_that_it_is_under_way() -> None:
    """Ctrl-C then need not wait for its end."""
    seen = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
        seen.append(compilation.is_under_way())
        return graph.forward

    program = torch.compile(lambda x: x + 1, backend=backend)
    before = compilation.is_under_way()
    assert program(torch.zeros(2)).tolist() == [1.0, 1.0]
    assert (before, seen, compilation.is_under_way()) == (False, [True], False)
