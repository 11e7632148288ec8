"""Configs by name and by path, and files that are no configs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ebrl.command import main
from ebrl.command.configs.files import find, read_tree, shipped
from ebrl.command.errors import UsageError

ROOT = Path(__file__).parents[3]
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{this}: &{this} [{', '.join([f'*{last}'] * 10)}]\n"
    for last, this in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("name", "verb"),
    [("pendulum", "train"), ("baselines/sac/hopper", "train"), ("fit/two_moons", "fit")],
)
def test_a_shipped_config_is_found_by_name_and_by_path_from_any_folder(
    name: str, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = ROOT / "configs" / f"{name}.yaml"
    for given in (name, f"{name}.yaml", f"configs/{name}.yaml"):
        assert find(given, verb).samefile(path)


def test_a_file_of_the_working_folder_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pendulum.yaml").write_text("agent: mine\n")
    assert find("pendulum.yaml", "train") == Path("pendulum.yaml")


def test_every_config_is_listed_with_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("train", "fit"):
        assert main([verb]) == 0
        said = capsys.readouterr().out
        for name, config in shipped(verb).items():
            assert f"{name} " in said
            assert config.about in said
            assert len(config.about) > 10
    listed = {
        str(config.path.resolve()) for v in ("train", "fit") for config in shipped(v).values()
    }
    assert listed == {str(path.resolve()) for path in (ROOT / "configs").rglob("*.yaml")}


def test_a_misspelt_name_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "pendulun"]) == 2
    assert "Did you mean `pendulum`?" in capsys.readouterr().err
    assert main(["train", "quite-another"]) == 2
    assert "ebrl train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "10,000 values"),
        ("agent: &x\n  y: *x\n", "contains itself"),
        ("agent: !!int x\n", "not YAML"),
        ("agent: !!float nope\n", "not YAML"),
        ("agent: !!python/object/apply:os.system [true]\n", "not YAML"),
        ("[" * 5_000, "not YAML"),
        ("- 1\n", "not a config"),
        ("1: 2\n", "not a config"),
        ("", "not a config"),
    ],
)
def test_a_file_that_is_no_config_is_named(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"c\.yaml") as caught:
        read_tree(path)
    assert said in str(caught.value)


def test_an_environment_of_the_working_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "my_env.py").write_text(
        "import gymnasium as gym\n"
        "from gymnasium.envs.classic_control.pendulum import PendulumEnv\n"
        "gym.register('Mine-v0', entry_point=PendulumEnv, max_episode_steps=10)\n"
    )
    (tmp_path / "c.yaml").write_text(
        "agent:\n  class_path: stable_baselines3.SAC\n  init_args: {policy: MlpPolicy, "
        "env: 'my_env:Mine-v0', buffer_size: 100, policy_kwargs: {net_arch: [8]}}\n"
        "total_timesteps: 20\nevaluation_episodes: 1\n"
    )
    done = installed(tmp_path, "train", "c.yaml")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "c" / "SAC-0" / "model.zip").exists()
    for verb in (["evaluate", "--episodes=1"], ["resume", "--total_timesteps=30"]):
        refused = installed(tmp_path, verb[0], "runs/c/SAC-0", *verb[1:])
        assert refused.returncode == 2
        assert "add --trust" in refused.stderr
        done = installed(tmp_path, verb[0], "runs/c/SAC-0", *verb[1:], "--trust")
        assert done.returncode == 0, done.stderr


def installed(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A call of the installed command in a folder, which is not on Python's path."""
    script = (
        "import sys; sys.path = [p for p in sys.path if p]; from ebrl.command import main; "
        f"sys.exit(main({[*arguments]!r}))"
    )
    return subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True
    )


@pytest.mark.parametrize(("verb", "other"), [("train", "fit"), ("fit", "train")])
def test_a_config_of_another_verb_is_named_as_such(verb: str, other: str) -> None:
    name = next(iter(shipped(other)))
    with pytest.raises(UsageError, match=f"that is a config of `ebrl {other}`"):
        find(name, verb)
