"""`ebrl play`: a video of an episode with the energies beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest
import yaml
from gymnasium import spaces

from ebrl.command import main
from ebrl.command.pictures.films import LEAST


class Drawn(gym.Env):
    """Five steps an episode; its picture is of one grey, the number of steps so far."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012, as gymnasium's
    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode: str | None = None, reward: float = 1.0) -> None:
        self.render_mode, self.reward, self.steps = render_mode, reward, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.zeros(2, np.float32), self.reward, self.steps == 5, False, {}

    def render(self) -> np.ndarray:
        return np.full((40, 60, 3), 10 * self.steps, np.uint8)


gym.register("Play/Drawn-v0", entry_point=Drawn)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("played")
    arguments = {"policy": "MlpPolicy", "env": "Play/Drawn-v0", "learning_starts": 10}
    arguments |= {"buffer_size": 100, "batch_size": 8, "policy_kwargs": {"net_arch": [8]}}
    content = {
        "agent": {"class_path": "ebrl.agents.EnergyActorCritic", "init_args": arguments},
        "total_timesteps": 12,
        "evaluation_episodes": 1,
        "run": str(folder / "run"),
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    assert main(["train", str(path)]) == 0
    return folder / "run"


def test_a_video_shows_every_step_and_the_energies(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "out.gif"
    options = ["--video", str(video), "--env_kwargs", "{reward: 2.0}", "--temperature", "0.5"]
    assert main(["play", str(run), *options]) == 0
    assert "return 10.00 in 5 steps" in capsys.readouterr().out
    frames = [np.asarray(frame)[..., :3] for frame in imageio.mimread(video)]
    assert len(frames) == 6
    assert frames[0].shape == (LEAST, 60 + LEAST, 3)  # the picture, and the landscape at its right
    middle = [int(frame[LEAST // 2, 20:40].mean()) for frame in frames]
    assert middle == pytest.approx([0, 10, 20, 30, 40, 50], abs=4)  # a GIF has 256 colours
    assert np.ptp(frames[0][:, 60:].astype(int)) > 200
    assert [path.name for path in tmp_path.iterdir()] == ["out.gif"]


def test_a_film_may_be_an_mp4_and_greedy(run: Path, tmp_path: Path) -> None:
    video = tmp_path / "out.mp4"
    assert main(["play", str(run), "--video", str(video), "--greedy", "--episodes", "2"]) == 0
    assert b"ftyp" in video.read_bytes()[:16]


def test_a_film_is_written_over_another_only_if_asked_to(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "out.gif"
    video.write_bytes(b"mine")
    assert main(["play", str(run), "--video", str(video)]) == 2
    assert "is there already: --overwrite" in capsys.readouterr().err
    assert video.read_bytes() == b"mine"
    assert main(["play", str(run), "--video", str(video), "--overwrite"]) == 0
    assert video.read_bytes().startswith(b"GIF")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ([], 1, "--video out.mp4"),  # tests have no display
        (["--video", "out.txt"], 2, ".mp4 or .gif"),
        (["--video", "nowhere/out.mp4"], 2, "a folder that exists"),
        (["--temperature", "0"], 2, "above 0"),
        (["--env_kwargs", "g=5", "--video", "out.gif"], 2, "--env_kwargs: expected a mapping such"),
        (["--env_kwargs", "{colour: red}", "--video", "out.gif"], 2, "colour"),
    ],
)
def test_what_cannot_be_played_is_said(
    options: list[str],
    code: int,
    said: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["play", str(run), *options]) == code
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_ffmpeg_is_one_line(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert main(["play", str(run), "--video", str(tmp_path / "out.mp4")]) == 1
    assert "this needs imageio_ffmpeg: pip install 'ebrl[play]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_evaluate_leads_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--render"]) == 1  # a test has no display
    assert "there is no display for a window here" in capsys.readouterr().err
