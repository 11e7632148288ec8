"""`ebrl sweep`: what it searches, that every trial counts once, and what a kill leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from ebrl.command import main
from ebrl.command.errors import UsageError
from ebrl.command.sweeps.search import _distribution
from ebrl.command.sweeps.space import Grid, Range, combinations, dimensions, options
from ebrl.command.sweeps.trials import FailedError, folder_of, train_run

RATES = "agent.learning_rate=1e-3,1e-2"


def config(folder: Path, **changes: object) -> Path:
    arguments = {
        "policy": "MlpPolicy",
        "env": "Pendulum-v1",
        "learning_starts": 10,
        "buffer_size": 100,
        "batch_size": 8,
        "policy_kwargs": {"net_arch": [8]},
    }
    agent = {"class_path": "stable_baselines3.SAC", "init_args": arguments}
    content = {"agent": agent, "total_timesteps": 30, "evaluation_episodes": 1, **changes}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def finished(folder: Path) -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder / 'study.db'}")
    return study.get_trials(states=[TrialState.COMPLETE])


def test_grids_and_ranges_are_read() -> None:
    space = dimensions(["a=1,x,[2]", "b=1e-4:1e-2:log", "c=0:8:int", "d=0:1.5"])
    assert space == {
        "a": Grid((1, "x", [2])),
        "b": Range(1e-4, 1e-2, "log"),
        "c": Range(0, 8, "int"),
        "d": Range(0, 1.5, "plain"),
    }
    (whole,) = dimensions(["i=16:512:logint"]).values()
    assert whole == Range(16, 512, "logint")
    assert _distribution(whole) == optuna.distributions.IntDistribution(16, 512, log=True)
    space |= dimensions(["e=[64,64],[256,256]", "f=null,batch", "g=[[1],[2]]", "h={k: 1},{k: 2}"])
    assert space["e"] == Grid(([64, 64], [256, 256]))
    assert space["f"] == Grid((None, "batch"))
    assert space["g"] == Grid(([1], [2]))
    assert space["h"] == Grid(({"k": 1}, {"k": 2}))
    assert options({"a": [64, 64], "b": None, "c": "x", "d": 1e-3}) == [
        "--a=[64, 64]",
        "--b=null",
        "--c=x",
        "--d=0.001",
    ]
    assert combinations(space) == []
    assert combinations(dimensions(["a=1,2", "b=x"])) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]


@pytest.mark.parametrize(
    "text", ["a", "a=", "=3", "a=2:1", "a=0:1:log", "a=0.5:2:int", "a=0:1:x", "a=[1,2"]
)
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        dimensions([text])


def test_a_key_that_comes_twice_is_refused() -> None:
    with pytest.raises(UsageError, match=r"agent\.moves comes twice"):
        dimensions(["agent.moves=1", "agent.moves=2"])


@pytest.mark.parametrize("kind", ["", ":log"])
def test_a_range_with_numbers_that_its_key_does_not_take_is_refused_before_the_work(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    values = f"agent.batch_size=16:64{kind}"
    assert main(["sweep", str(config(tmp_path)), values, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "batch_size" in said
    assert "A range of whole numbers is low:high:int." in said
    assert not out.exists()


def test_a_grid_is_tried_once_and_the_best_config_comes_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    command = ["sweep", str(config(tmp_path)), RATES, "--out", str(out), "--jobs", "2"]
    assert main(command) == 0
    folder = out / "Pendulum-v1"
    trials = finished(folder)
    assert {trial.params["agent.learning_rate"] for trial in trials} == {1e-3, 1e-2}
    best = yaml.safe_load((folder / "best.yaml").read_text())
    winner = max(trials, key=lambda trial: trial.value)
    rate = best["agent"]["init_args"]["learning_rate"]
    assert rate == winner.params["agent.learning_rate"]
    assert f"return {winner.value:.2f}" in (folder / "best.yaml").read_text()
    assert main(["train", str(folder / "best.yaml"), "--run", str(tmp_path / "again")]) == 0
    capsys.readouterr()
    assert main(command) == 0  # nothing is left to try
    assert "best of 2 trials" in capsys.readouterr().out
    assert len(finished(folder)) == 2
    assert main([*command[:2], "agent.batch_size=4,8", *command[3:]]) == 2
    assert "--out OTHER" in capsys.readouterr().err


def test_lists_and_nothing_are_values(tmp_path: Path) -> None:
    widths = "agent.policy_kwargs.net_arch=[4],[8,8]"
    command = ["sweep", str(config(tmp_path)), widths, "agent.action_noise=null"]
    assert main([*command, "--out", str(tmp_path / "s")]) == 0
    trials = finished(tmp_path / "s" / "Pendulum-v1")
    found = sorted(trial.params["agent.policy_kwargs.net_arch"] for trial in trials)
    assert found == ["[4]", "[8, 8]"]


def test_another_config_is_another_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["agent.batch_size=8", "--out", str(tmp_path / "s")]
    assert main(["sweep", str(config(tmp_path)), *command]) == 0
    assert main(["sweep", str(config(tmp_path, total_timesteps=40)), *command]) == 2
    assert "holds a sweep of another config" in capsys.readouterr().err


def test_trials_of_agents_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rliable", reason="no wheels of its `arch` for this Python")
    agents = "agent=stable_baselines3.SAC,stable_baselines3.TD3"
    fixed = "agent.learning_rate=1e-3"  # one value is no choice
    command = ["sweep", str(config(tmp_path)), agents, fixed]
    command += ["--seeds", "2", "--out", str(tmp_path / "s")]
    folder = tmp_path / "s" / "Pendulum-v1"
    for _ in range(2):  # the second has nothing left to train
        assert main(command) == 0
        assert f"compared {folder}/comparison.png" in capsys.readouterr().out
    page = (folder / "comparison.md").read_text()
    assert "| SAC | 2 |" in page
    assert "| TD3 | 2 |" in page


def test_a_trial_that_fails_is_told_and_the_others_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", str(config(tmp_path)), "agent.batch_size=8,-1"]
    assert main([*command, "--out", str(tmp_path / "sweep")]) == 0
    said = capsys.readouterr().out
    assert "failed" in said
    assert "agent.batch_size: expected a number from 1" in said
    assert len(finished(tmp_path / "sweep" / "Pendulum-v1")) == 1


def test_a_failed_trial_is_tried_again_by_the_same_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    command = ["sweep", str(config(tmp_path)), RATES, "--out", str(out)]
    folder = out / "Pendulum-v1"
    blocked = folder / folder_of({"agent.learning_rate": 1e-2}) / "seed-0"
    blocked.mkdir(parents=True)
    (blocked / "mine.txt").write_text("no run")
    for _ in range(2):  # it fails each time, and is one of two trials
        assert main(command) == 0
        said = capsys.readouterr().out
        assert said.count("failed: ") == 1
        assert "best of 2 trials" in said
        assert "1 trial; what they said" in said
        assert len(finished(folder)) == 1
    (blocked / "mine.txt").unlink()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "best of 2 trials" in said
    assert "what they said" not in said
    assert {trial.params["agent.learning_rate"] for trial in finished(folder)} == {1e-3, 1e-2}
    assert main(command) == 0  # nothing is left to try
    assert len(finished(folder)) == 2


def test_a_task_that_fails_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    command = ["sweep", str(config(tmp_path)), "agent.batch_size=8", "--out", str(out)]
    assert main([*command, "--env", "CartPole-v1,Pendulum-v1"]) == 1  # SAC needs a Box
    said, complaint = capsys.readouterr()
    assert "CartPole-v1: no trial came to its end" in complaint
    assert "Done: 1 tasks searched, 1 not." in said
    assert "  not CartPole-v1" in said
    assert (out / "Pendulum-v1" / "best.yaml").exists()


def test_a_killed_sweep_goes_on_and_loses_no_trial(tmp_path: Path) -> None:
    path, out = config(tmp_path, total_timesteps=60, checkpoint_every=10), tmp_path / "sweep"
    command = [sys.executable, "-m", "ebrl.command", "sweep", str(path), RATES, "--out", str(out)]
    folder = out / "Pendulum-v1"
    quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    with subprocess.Popen(command, **quiet) as process:  # type: ignore[call-overload]
        while process.poll() is None and not list(folder.glob("trial-*/seed-0/config.yaml")):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert subprocess.run(command, check=True, **quiet).returncode == 0  # type: ignore[call-overload]
    assert {trial.params["agent.learning_rate"] for trial in finished(folder)} == {1e-3, 1e-2}
    assert len(list(folder.glob("trial-*/seed-0/model.zip"))) == 2


def test_a_mistake_is_said_before_any_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    command = ["sweep", str(config(tmp_path)), "agent.learning_rat=1,2", "--out", str(out)]
    assert main(command) == 2
    assert "Did you mean `learning_rate`?" in capsys.readouterr().err
    command = ["sweep", str(config(tmp_path)), RATES, "--out", str(out)]
    assert main([*command, "--env", "Pendulum-v1,Pendulm-v1"]) == 2
    assert "Did you mean `Pendulum-v1`?" in capsys.readouterr().err
    assert not out.exists()
    out.write_text("mine")
    assert main(command) == 2
    assert "--out: expected a folder" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "said"), [("[{", "damaged"), ("[]", "evaluations are gone")])
def test_a_finished_run_that_was_damaged_fails_alone(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "model.zip").write_bytes(b"")
    (tmp_path / "evaluations.json").write_text(text)
    with pytest.raises(FailedError, match=said):
        train_run(tmp_path, tmp_path / "tiny.yaml", [], lambda steps, mean: None, Event())
