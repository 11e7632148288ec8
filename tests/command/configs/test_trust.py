"""Which code a config may name, and that a folder is data until it is trusted."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ebrl.command import main
from ebrl.command.configs.trust import command, is_known


@pytest.mark.parametrize(
    "text",
    [
        "ebrl.agents.EnergyActorCritic",
        "ebrl.networks.MLPEnergy",
        "ebrl.training.tables.two_moons",
        "ebrl.command.spaces.Unbounded",
        "ebrl.schedules.cosine",
        "ebrl.objectives.persistent",
        "ebrl.vision.trainable",
        "stable_baselines3.SAC",
        "stable_baselines3.common.noise.NormalActionNoise",
        "stable_baselines3.common.utils.LinearSchedule",
        "sb3_contrib.TQC",
        "torch.nn.Tanh",
        "torch.optim.Adam",
        "gymnasium.spaces.Box",
        "numpy.float32",
        "ebrl.envs:Chain-v0",
    ],
)
def test_parts_of_the_libraries_are_known(text: str) -> None:
    pytest.importorskip(text.partition(".")[0])
    assert is_known(text)


@pytest.mark.parametrize(
    "text",
    [
        "__main__.main",
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "torch.load",
        "torch.hub.load",
        "torch.utils.data.datapipes.map.callable.MapperMapDataPipe",
        "torch.nn.modules.module.warnings.warn",
        "stable_baselines3.common.utils.os.system",
        "ebrl.vision.fashion.os.system",
        "ebrl.vision.fashion.np.save",
        "ebrl.command.main",
        "ebrl.storage.save",
        "ebrl.training.checkpoints.write_checkpoint",
        "ebrl.agents.checkpoints.save_checkpoint",
        "ebrl.vision.files.save",
        "ebrl.vision.shipped.ship",
        "ebrl.training.TensorBoardLog",
        "ebrl.agents.EnergyActorCritic.load",
        "numpy.f2py.__main__",
        "my_env:MyEnv-v0",
        "numpy.save",
    ],
)
def test_whatever_else_they_lead_to_is_not(text: str) -> None:
    assert not is_known(text)


def agent_folder(folder: Path, **arguments: object) -> Path:
    """A folder as somebody else may send it: a config, and no checkpoint."""
    known = {"policy": "MlpPolicy", "env": "Pendulum-v1", "buffer_size": 100}
    agent = {"class_path": "ebrl.agents.EnergyActorCritic", "init_args": {**known, **arguments}}
    (folder / "run").mkdir()
    path = folder / "run" / "config.yaml"
    path.write_text(yaml.safe_dump({"agent": agent, "total_timesteps": 10}))
    (folder / "run" / "evaluations.json").write_text(
        '[{"timesteps": 5, "returns": [1], "lengths": [1], "mean": 1, "std": 0,'
        ' "cpu_seconds": 1, "wall_seconds": 1}]'
    )
    return folder / "run"


@pytest.mark.parametrize("verb", ["evaluate", "plot", "resume", "play", "export"])
def test_a_foreign_folder_is_not_run(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "planted.py").write_text("raise SystemExit('the code of the folder ran')\n")
    run = agent_folder(tmp_path, env="planted:Planted-v0")
    line = [verb, str(run), *(["--onnx", str(tmp_path / "x.onnx")] if verb == "export" else [])]
    assert main(line) == 2
    said = capsys.readouterr().err
    assert "planted:Planted-v0" in said
    assert "--trust" in said
    assert main([*line, "--trust"]) == 2  # now it is imported, and says so
    assert "the code of the folder ran" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("env", "option"), [("Pendulum-v1", ""), ("planted:Planted-v0", " --trust")]
)
def test_what_to_do_next_names_the_option_that_it_needs(
    env: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = agent_folder(tmp_path, env=env)
    assert command("play", run) == f"ebrl play {run}{option}"
    assert main(["train", "pendulum", "--run", str(run)]) == 2
    assert f"Go on: ebrl resume {run}{option}." in capsys.readouterr().err


@pytest.mark.parametrize("key", ["offline", "prefill"])
def test_demonstrations_are_no_code(tmp_path: Path, key: str) -> None:
    tree = {key: "minari:pendulum/swings-v0", "agent": {"class_path": "stable_baselines3.SAC"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    assert command("play", tmp_path) == f"ebrl play {tmp_path}"


def test_names_of_files_are_no_code(tmp_path: Path) -> None:
    data = {"class_path": "ebrl.sequences.Text", "init_args": {"path": "text.txt"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    assert command("resume", tmp_path) == f"ebrl resume {tmp_path}"


def test_an_energys_folder_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, mark = tmp_path / "run", tmp_path / "mark"
    run.mkdir()
    content = {
        "energy": {"class_path": "ebrl.networks.MLPEnergy", "init_args": {"dimension": 2}},
        "data": {"class_path": "pathlib.Path.touch", "init_args": {"self": str(mark)}},
        "objective": {"class_path": "ebrl.objectives.EnergyDiscrepancy"},
        "steps": 1,
    }
    (run / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    for verb in ("sample", "resume"):
        assert main([verb, str(run)]) == 2
        assert "pathlib.Path.touch" in capsys.readouterr().err
    assert not mark.exists()


@pytest.mark.parametrize(
    ("policy_kwargs", "said"),
    [
        ({"x": {"class_path": "subprocess.Popen", "init_args": {"args": "true"}}}, "Popen"),
        ({"activation_fn": "os.abort"}, "torch.nn.modules.module.Module"),
        ({"optimizer_class": "torch.nn.Tanh"}, "torch.optim.optimizer.Optimizer"),
    ],
)
def test_a_policy_is_built_of_known_parts_only(
    policy_kwargs: dict, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = agent_folder(tmp_path, policy_kwargs=policy_kwargs)
    assert main(["train", str(run / "config.yaml"), "--run", str(tmp_path / "new")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("verb", ["train", "fit"])
def test_help_says_that_a_config_may_run_code(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "--help"]) == 0
    assert "read a config that comes from somebody else" in " ".join(
        capsys.readouterr().out.split()
    )
