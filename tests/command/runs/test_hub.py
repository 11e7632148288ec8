"""`ebrl push` and `ebrl pull`, against a stand-in of the Hub on loopback."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hub_stand_in import Hub, hub

from ebrl import storage
from ebrl.command import main
from ebrl.command.errors import RunError
from ebrl.command.runs.folder import Run
from ebrl.command.runs.hub import stage

pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.filterwarnings("ignore")  # the client's own


@pytest.fixture(autouse=True)
def logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


@pytest.fixture
def server() -> Iterator[Hub]:
    with hub() as running:
        yield running


def trained(folder: Path, agent: str) -> Path:
    folder.mkdir(exist_ok=True)
    arguments = {"policy": "MlpPolicy", "env": "CartPole-v1", "learning_starts": 4}
    content = {
        "agent": {"class_path": agent, "init_args": arguments},
        "total_timesteps": 8,
        "evaluation_episodes": 2,
        "evaluation_steps": 5,
        "run": str(folder / "run"),
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    assert main(["train", str(path)]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of an agent of ebrl."""
    return trained(tmp_path_factory.mktemp("ours"), "ebrl.agents.SoftQ")


@pytest.mark.parametrize(
    "agent",
    ["ebrl.agents.SoftQ", pytest.param("stable_baselines3.DQN", marks=pytest.mark.slow)],
)
def test_a_run_comes_back_and_goes_on(
    agent: str, server: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, agent)
    there = ["--endpoint", server.address]
    assert main(["push", str(run), "--hub", "me/cartpole", "--license", "cc-by-4.0", *there]) == 0
    files = server.repositories["me/cartpole"]
    assert {"README.md", "config.yaml", "evaluations.json"} <= files.keys()
    assert ("model.safetensors" in files) == agent.startswith("ebrl")  # SB3's own is a pickle
    assert "model.zip" not in files
    card = files["README.md"].decode()
    head = next(yaml.safe_load_all(card.removeprefix("---\n").split("---")[0]))
    assert head["license"] == "cc-by-4.0"
    assert head["model-index"][0]["results"][0]["metrics"][0]["type"] == "mean_reward"
    assert "ebrl train config.yaml" in card
    assert "ebrl pull me/cartpole" in card
    again = tmp_path / "again"
    assert main(["pull", "me/cartpole", "--run", str(again), *there]) == 0
    assert main(["evaluate", str(again), "--episodes", "1"]) == 0
    assert main(["resume", str(again), "--total_timesteps", "10"]) == 0
    assert main(["pull", "me/cartpole", "--run", str(again), *there]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_nothing_but_a_run_is_taken(server: Hub, ours: Path, tmp_path: Path) -> None:
    run = ours
    there = ["--endpoint", server.address]
    assert main(["push", str(run), "--hub", "me/x", *there]) == 0
    server.repositories["me/x"] |= {"model.pkl": b"x", "../up.txt": b"x", "checkpoints/a.py": b"x"}
    assert main(["pull", "me/x", "--run", str(tmp_path / "again"), *there]) == 0
    names = {path.name for path in (tmp_path / "again").rglob("*")}
    assert names.isdisjoint({"model.pkl", "up.txt", "a.py"})
    model, before = (storage.load(folder / "model.zip") for folder in (tmp_path / "again", run))
    assert model.facts == before.facts
    server.repositories["me/x"]["model.safetensors"] = b"no weights"
    assert main(["pull", "me/x", "--run", str(tmp_path / "other"), *there]) == 1
    assert not (tmp_path / "other").exists()
    with zipfile.ZipFile(run / "model.zip") as archive:
        assert archive.namelist() == [storage.ENTRY]


def test_a_run_of_foreign_code_without_a_checkpoint_is_resumed_with_trust(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("agent: {class_path: antigravity.Agent}\n")
    with pytest.raises(RunError, match=r"ebrl resume \S+ --trust"):
        stage(Run(tmp_path), str(tmp_path / "staged"), "me/x", "mit")


def test_what_the_hub_cannot_do_is_one_line(
    server: Hub, ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ours
    server.repositories["me/empty"] = {"README.md": b"nothing"}
    half = shutil.copytree(run, tmp_path / "half")
    (half / "config.yaml").write_text("")
    there, nowhere = ["--endpoint", server.address], ["--endpoint", "http://127.0.0.1:9"]
    for command, code, said in [
        (["pull", "me/none", *there], 1, "Repository Not Found"),
        (["pull", "me/empty", *there], 1, "me/empty holds no run"),
        (["push", str(run), "--hub", "a b", *there], 2, "expected a repository NAMESPACE/NAME"),
        (["push", str(run), "--hub", "me/x", *nowhere], 1, "nobody answers at http://127.0.0.1:9"),
        (["push", str(tmp_path), "--hub", "me/x", *there], 2, "not the folder of a run"),
        (["push", str(half), "--hub", "me/x", *there], 2, "this is not a config"),
    ]:
        capsys.readouterr()
        assert (
            main([*command, *(["--run", str(tmp_path / "p")] if "pull" in command else [])]) == code
        )
        error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ebrl:")]
        assert len(error) == 1
        assert said in error[0]
