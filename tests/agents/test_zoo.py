"""The RL Zoo trains and enjoys our agents, registered as the documentation says."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "sb3.md"
SMALL = {
    "policy": "MlpPolicy",
    "n_timesteps": 120,
    "normalize": True,
    "learning_starts": 50,
    "buffer_size": 500,
    "learning_rate": "lin_1e-3",
    "policy_kwargs": "dict(net_arch=[16])",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("rl_zoo3") is None, reason="needs rl_zoo3"),
]


@pytest.mark.parametrize(
    ("algorithm", "env"), [("energy_actor_critic", "Pendulum-v1"), ("soft_q", "CartPole-v1")]
)
def test_the_zoo_trains_and_enjoys(algorithm: str, env: str, tmp_path: Path) -> None:
    (program,) = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "zoo.py").write_text(program)
    (tmp_path / "small.yml").write_text(yaml.safe_dump({env: SMALL}))

    def zoo(verb: str, *options: str) -> str:
        line = [sys.executable, "zoo.py", verb, "--algo", algorithm, "--env", env, "-f", "logs"]
        ran = subprocess.run([*line, *options], cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    zoo("train", "--conf-file", "small.yml", "--eval-freq", "60", "--eval-episodes", "1")
    for option in ([], ["--load-best"]):
        assert "Mean reward" in zoo("enjoy", "-n", "250", "--no-render", *option)
