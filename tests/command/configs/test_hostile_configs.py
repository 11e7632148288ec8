"""Configs that someone changed: refused, or harmless; never a traceback, a hang or much memory."""

from __future__ import annotations

import copy
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings

from ebrl.command.configs import agent_config, energy_config
from ebrl.command.configs.files import find
from ebrl.command.errors import RunError, UsageError
from ebrl.command.training import agent_training

CONFIGS = {
    "pendulum": "train",
    "cartpole": "train",
    "baselines/sac/hopper": "train",
    "fit/two_moons": "fit",
}
MEMORY, SECONDS = 2 * 2**30, 5  # of one config
NAMES = ["subprocess.Popen", "os.system", "ebrl.networks.MLPEnergy", "torch.nn.Linear", "nowhere.X"]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**40),
    st.sampled_from([2**31, 2**63, -1, 1e300, float("nan"), float("inf")]),
    st.sampled_from(["", "x", "auto", "Pendulum-v1", "os:Nothing-v0", "MlpPolicy", *NAMES]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(st.sampled_from(["class_path", "init_args", "a"]), inside, max_size=2)
    ),
    max_leaves=6,
)


@cache
def tree(name: str) -> dict[str, Any]:
    """The whole config of a run: every key with its value."""
    path, verb = find(name, CONFIGS[name]), CONFIGS[name]
    read = agent_config.read if verb == "train" else energy_config.read_fit
    return yaml.safe_load(read(path, trust=True).text)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside a tree."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, item in list(items):
        found.append((value, key))
        if isinstance(item, dict | list):
            found += places(item)
    return found


@contextmanager
def bounded() -> Iterator[None]:
    """Let the body have so much memory and time."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def take(path: Path, verb: str) -> None:
    """Read a run's config and build what it names, as `ebrl resume` does."""
    if verb == "train":
        agent = agent_training.build(agent_config.read(path))
        agent.env.close()
    else:
        energy_config.build(energy_config.read_fit(path))


def survives(data: st.DataObject, name: str, folder: Path) -> None:
    changed = copy.deepcopy(tree(name))
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(places(changed)))
        if data.draw(st.integers(0, 3)):
            container[key] = data.draw(VALUES)
        else:
            del container[key]
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(changed))
    with torch.random.fork_rng(devices=[]), bounded(), suppress(UsageError, RunError):
        take(path, CONFIGS[name])


def stop(*_: Any) -> None:
    raise TimeoutError(f"a config took more than {SECONDS} seconds")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    before = signal.signal(signal.SIGVTALRM, stop)
    yield tmp_path_factory.mktemp("run")
    signal.signal(signal.SIGVTALRM, before)


QUICK = settings(max_examples=15, deadline=None, derandomize=True, database=None)
LONG = settings(
    max_examples=1_000,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
CHANGED = pytest.mark.parametrize("name", CONFIGS)


@CHANGED
@QUICK
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_a_changed_config_is_refused_or_harmless(data: Any, name: str, folder: Path) -> None:
    survives(data, name, folder)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@CHANGED
@LONG
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_four_thousand_changed_configs(data: Any, name: str, folder: Path) -> None:
    survives(data, name, folder)
