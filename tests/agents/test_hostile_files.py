"""Files that were changed by someone: refused, or harmless; never a traceback or a signal."""

from __future__ import annotations

import copy
import io
import time
from contextlib import suppress
from functools import cache
from typing import Any

import gymnasium as gym
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from ebrl import storage
from ebrl.agents import EnergyActorCritic, SoftQ
from ebrl.agents.checkpoints import Checkpoints, restore, save_checkpoint
from ebrl.agents.replayable import Replayable
from ebrl.storage import StorageError, Stored

SMALL: dict[str, Any] = {"learning_starts": 10, "buffer_size": 60, "batch_size": 4, "seed": 1}
NETS = {"policy_kwargs": {"net_arch": [4]}}


def actor_critic() -> EnergyActorCritic:
    env = VecNormalize(DummyVecEnv([lambda: Replayable(gym.make("Pendulum-v1"))]))
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.1 * np.ones(1))
    return EnergyActorCritic("MlpPolicy", env, action_noise=noise, **SMALL, **NETS)


def soft_q() -> SoftQ:
    return SoftQ("MlpPolicy", Replayable(gym.make("CartPole-v1")), **SMALL, **NETS)


AGENTS = {"EnergyActorCritic": actor_critic, "SoftQ": soft_q}


@cache
def files(name: str) -> tuple[bytes, bytes]:
    """A saved agent and a checkpoint of it."""
    agent, saved, checkpoint = AGENTS[name](), io.BytesIO(), io.BytesIO()
    agent.learn(24)
    agent.save(saved)
    save_checkpoint(checkpoint, agent, [{"kind": "X", "numbers": {"n_calls": 3}}])
    return saved.getvalue(), checkpoint.getvalue()


def stored(name: str, which: int) -> Stored:
    return copy.deepcopy(storage.load(io.BytesIO(files(name)[which])))


def take(name: str, which: int, data: bytes) -> None:
    """Load the agent, or restore the checkpoint, and use what came back."""
    if which == 0:
        agent = type(AGENTS[name]()).load(io.BytesIO(data))
        agent.predict(agent.observation_space.sample())
    else:
        restore(AGENTS[name](), io.BytesIO(data))


def refused(name: str, which: int, contents: Stored, match: str = "expected") -> None:
    file = io.BytesIO()
    storage.save(file, *contents)
    with pytest.raises(StorageError, match=match):
        take(name, which, file.getvalue())


def edited(name: str, which: int, change: Any) -> Stored:
    """The file with its state changed, before it was split into tensors and JSON."""
    tensors, facts = stored(name, which)
    state = storage.unflatten(tensors, facts["state"])
    change(state)
    tensors, flat = storage.flatten(state)
    return Stored(tensors, {**facts, "state": flat})


# ---- one change -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1,), (0,), (16,)])
@pytest.mark.parametrize("which", [0, 1])
def test_moments_of_another_shape_are_refused(which: int, shape: tuple[int, ...]) -> None:
    tensors, facts = stored("EnergyActorCritic", which)
    moments = {name: torch.full(shape, 0.5) for name in tensors if "exp_avg" in name}
    assert moments
    refused("EnergyActorCritic", which, Stored({**tensors, **moments}, facts), "exp_avg")


@pytest.mark.parametrize("which", [0, 1])
def test_weights_of_another_dtype_are_refused(which: int) -> None:
    tensors, facts = stored("SoftQ", which)
    doubled = {n: t.double() for n, t in tensors.items() if "policy/critic" in n}
    assert doubled
    refused("SoftQ", which, Stored({**tensors, **doubled}, facts), "float32, got .*float64")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state: state["replay"].update(pos=-7), "replay/pos"),
        (lambda state: state["replay"].update(pos=60), "replay/pos"),
        (lambda state: state["replay"].update(full=1), "replay/full"),
        (lambda state: state["replay"]["arrays"]["actions"].fill(9), "replay/arrays/actions"),
        (lambda state: state.pop("replay"), "state: expected"),
        (lambda state: state["counters"].update(num_timesteps=-1), "counters/num_timesteps"),
        (lambda state: state["counters"].update(train=1), "expected counters .* got 'train'"),
        (lambda state: state["counters"].update(__class__=1), "got '__class__'"),
        (lambda state: state["counters"].update(_update=1), "got '_update'"),
        (lambda state: state["streams"].update(python=(3, ("x",), None)), "streams/python"),
        (lambda state: state["streams"]["numpy"]["state"].update(pos=700), "numpy/pos"),
        (lambda state: state["progress"].update(observation=np.zeros(3)), "progress/observation"),
        (lambda state: state["environments"].update(seeds=[]), "environments/seeds"),
        (lambda state: state["environments"]["episodes"][0].update(actions=3), "actions"),
    ],
)
def test_what_the_agent_cannot_have_written_is_refused(change: Any, match: str) -> None:
    refused("SoftQ", 1, edited("SoftQ", 1, change), match)


def test_a_refused_checkpoint_changes_nothing() -> None:
    agent = soft_q()
    before = copy.deepcopy(agent.get_parameters())
    file = io.BytesIO()
    storage.save(file, *edited("SoftQ", 1, lambda state: state["progress"].update(episodes=3)))
    with pytest.raises(StorageError, match="progress/episodes"):
        restore(agent, file)
    for name, value in before["policy"].items():
        assert torch.equal(value, agent.get_parameters()["policy"][name])
    assert agent.num_timesteps == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"policy_kwargs": {"net_arch": [40_000, 40_000]}},
        {"policy_kwargs": {"net_arch": [4] * 100_000}},
        {"policy_kwargs": {"n_critics": 10**9}},
        {"buffer_size": 10**15},
        {"buffer_size": -1},
        {"policy": {"class": ["torch.nn", "Linear"]}},
        {"learning_rate": {"object": ["LinearSchedule", {"start": "a"}]}},
        {"gamma": "x"},
    ],
)
def test_arguments_that_ask_for_too_much_are_refused(arguments: dict[str, Any]) -> None:
    begun = time.process_time()
    changed = edited("SoftQ", 0, lambda state: state["arguments"].update(arguments))
    refused("SoftQ", 0, changed, "expected|cannot be built from the stored arguments")
    assert time.process_time() - begun < 5


def test_an_episode_that_its_environment_refuses_starts_anew() -> None:
    file = io.BytesIO()
    change = edited(
        "SoftQ", 1, lambda state: state["environments"]["episodes"][0].update(options={"low": "x"})
    )
    storage.save(file, *change)
    with pytest.warns(UserWarning, match="did not reproduce its episode"):
        restore(soft_q(), file)


def test_only_counters_come_back_into_callbacks(tmp_path: Any) -> None:
    agent, file = soft_q(), io.BytesIO()
    agent.learn(20)
    numbers = {"save_path": str(tmp_path / "elsewhere"), "name_prefix": "x", "n_calls": 3}
    save_checkpoint(file, agent, [{"kind": "CheckpointCallback", "numbers": numbers}])
    other = soft_q()
    resumed = restore(other, file)
    callback = CheckpointCallback(5, str(tmp_path / "mine"))
    beside = Checkpoints(tmp_path / "run", 1_000, resumed=resumed)
    with pytest.warns(UserWarning, match=r"left out .*'name_prefix', 'save_path'"):
        other.learn(10, callback=[callback, beside], reset_num_timesteps=False)
    assert callback.n_calls == 13
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("which", [0, 1])
def test_a_zip_whose_directory_is_damaged_is_refused(which: int) -> None:
    whole = bytearray(files("SoftQ")[which])
    start = whole.rindex(b"PK\x05\x06") + 16  # of the directory, in the record at the end
    whole[start : start + 4] = b"\xff\xff\xff\x7f"
    with pytest.raises(StorageError, match="damaged"):
        take("SoftQ", which, bytes(whole))


# ---- any change -----------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from(["", "x", "tensor", "map", "class", "value", "/streams/torch"]),
)
JSON = st.recursive(
    LEAVES,
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(
            st.sampled_from(["tensor", "array", "map", "tuple", "a"]), inside, max_size=2
        )
    ),
    max_leaves=6,
)
DTYPES = [torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool, torch.bfloat16]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside a JSON value."""
    found = []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        found.append((value, key))
        if isinstance(item, dict | list):
            found += places(item)
    return found


def mutated(data: st.DataObject, name: str, which: int) -> bytes:
    """The bytes of a file with one to three changes to its JSON, its tensors or its bytes."""
    tensors, facts = stored(name, which)
    for _ in range(data.draw(st.integers(1, 3))):
        if data.draw(st.booleans()):
            found = places(facts)
            container, key = found[data.draw(st.integers(0, len(found) - 1))]
            if data.draw(st.booleans()):
                container[key] = data.draw(JSON)
            else:
                del container[key]
        else:
            chosen = data.draw(st.sampled_from(sorted(tensors)))
            shape = data.draw(st.lists(st.integers(0, 5), max_size=3))
            if data.draw(st.booleans()):
                shape = list(tensors[chosen].shape)
            dtype = data.draw(st.sampled_from([tensors[chosen].dtype, *DTYPES]))
            value = data.draw(st.sampled_from([0, 1, -1, 255, 2**31, float("inf")]))
            filled = torch.full(shape, float(value), dtype=torch.float64)
            tensors[chosen] = filled.nan_to_num(posinf=1e30).to(dtype)
    file = io.BytesIO()
    storage.save(file, tensors, facts)
    whole = file.getvalue()
    if data.draw(st.integers(0, 9)) == 0:
        where = data.draw(st.integers(0, len(whole) - 1))
        whole = whole[:where] + data.draw(st.binary(max_size=3)) + whole[where + 1 :]
    return whole


def survives(data: st.DataObject, name: str, which: int) -> None:
    file = mutated(data, name, which)
    begun = time.process_time()
    with suppress(StorageError):
        take(name, which, file)
    assert time.process_time() - begun < 5


QUICK = settings(max_examples=30, deadline=None, derandomize=True, database=None)
LONG = settings(
    max_examples=2_500,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
CHANGED = pytest.mark.parametrize(
    ("name", "which"), [(name, which) for name in AGENTS for which in (0, 1)]
)


@CHANGED
@QUICK
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_a_changed_file_is_refused_or_harmless(data: Any, name: str, which: int) -> None:
    survives(data, name, which)


@pytest.mark.slow
@CHANGED
@LONG
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_ten_thousand_changed_files(data: Any, name: str, which: int) -> None:
    survives(data, name, which)
