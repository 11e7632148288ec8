"""`ebrl export`: a run's policy as ONNX, and one line where it cannot be written."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from ebrl.command import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on normalised observations."""
    folder = tmp_path_factory.mktemp("exported")
    small = {"policy": "MlpPolicy", "env": "CartPole-v1", "learning_starts": 10, "buffer_size": 100}
    content = {
        "agent": {
            "class_path": "ebrl.agents.SoftQ",
            "init_args": {**small, "batch_size": 4, "policy_kwargs": {"net_arch": [8]}},
        },
        "total_timesteps": 30,
        "evaluation_episodes": 1,
        "normalize": "observations",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    assert main(["train", str(folder / "config.yaml"), "--run", str(folder / "run")]) == 0
    return folder / "run"


def test_a_run_is_exported(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runtime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    path = tmp_path / "cartpole.onnx"
    capsys.readouterr()
    assert main(["export", str(run), "--onnx", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    observations = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    (actions,) = runtime.InferenceSession(str(path)).run(None, {"observation": observations})
    assert actions.shape == (3,)
    facts = {one.key: one.value for one in onnx.load(path).metadata_props}
    assert (facts["environment"], facts["timesteps"]) == ("CartPole-v1", "30")


def test_a_file_in_no_folder_is_refused_before_any_work(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), "--onnx", str(tmp_path / "none" / "x.onnx")]) == 2
    assert "a folder that exists" in capsys.readouterr().err


def test_a_file_that_is_there_is_kept(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.onnx"
    path.write_bytes(b"mine")
    assert main(["export", str(run), "--onnx", str(path)]) == 2
    assert "is there already: --overwrite" in capsys.readouterr().err
    assert path.read_bytes() == b"mine"


def test_a_missing_package_is_one_line(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(run), "--onnx", str(tmp_path / "x.onnx")]) == 1
    assert "pip install 'ebrl[export]'" in capsys.readouterr().err
