"""`ebrl sweep --ray` on a cluster of two nodes: one dies, or the driver does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

pytest.importorskip("ray")
from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings
QUIET = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield made
    made.shutdown()


def command(folder: Path, address: str) -> list[str]:
    arguments = {"policy": "MlpPolicy", "env": "Pendulum-v1", "learning_starts": 10}
    arguments |= {"buffer_size": 500, "policy_kwargs": {"net_arch": [8]}}
    content = {
        "agent": {"class_path": "stable_baselines3.SAC", "init_args": arguments},
        "total_timesteps": 400,
        "evaluation_episodes": 1,
        "checkpoint_every": 50,
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    sweep = ["sweep", str(folder / "tiny.yaml"), "agent.batch_size=8,16", f"--ray={address}"]
    return [sys.executable, "-m", "ebrl.command", *sweep, "--out", str(folder / "sweep")]


def wait_for(process: subprocess.Popen, happened: Callable[[], object]) -> None:
    while process.poll() is None and not happened():
        time.sleep(0.1)
    assert process.poll() is None, "it ended before anything could happen to it"


def begun(folder: Path) -> list[Path]:
    return list(folder.glob("sweep/*/trial-*/seed-0/checkpoints/*.zip"))


def assert_both_ended(folder: Path) -> None:
    assert len(list(folder.glob("sweep/*/trial-*/seed-0/model.zip"))) == 2
    best = (folder / "sweep" / "Pendulum-v1" / "best.yaml").read_text()
    assert "the best of 2 trials" in best.lower()


def test_a_trial_outlives_its_node(tmp_path: Path, cluster: Cluster) -> None:
    node = cluster.add_node(num_cpus=1)
    with subprocess.Popen(command(tmp_path, cluster.address), **QUIET) as process:  # type: ignore[call-overload]
        wait_for(process, lambda: begun(tmp_path))
        cluster.remove_node(node, allow_graceful=False)
    assert process.returncode == 0
    assert_both_ended(tmp_path)


def test_a_driver_that_died_goes_on(tmp_path: Path, cluster: Cluster) -> None:
    with subprocess.Popen(command(tmp_path, cluster.address), **QUIET) as process:  # type: ignore[call-overload]
        wait_for(process, lambda: begun(tmp_path))
        process.send_signal(signal.SIGKILL)
    done = subprocess.run(command(tmp_path, cluster.address), **QUIET)  # type: ignore[call-overload]
    assert done.returncode == 0
    assert_both_ended(tmp_path)


def test_nobody_answers_at_an_address(tmp_path: Path) -> None:
    asked = command(tmp_path, "127.0.0.1:1")
    done = subprocess.run(asked, **QUIET, stderr=subprocess.PIPE, text=True)  # type: ignore[call-overload]
    assert done.returncode == 1
    assert "no Ray cluster answers at 127.0.0.1:1" in done.stderr
