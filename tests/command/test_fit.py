"""`ebrl fit`, `ebrl sample` and `ebrl resume` of energies, from end to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from fit_configs import PNG, config, sampler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ebrl import networks, storage
from ebrl.command import main
from ebrl.command.configs.energy_config import build, read_fit
from ebrl.command.runs.folder import existing
from ebrl.command.training.energy_training import restore_average
from ebrl.training import Training

ROOT = Path(__file__).parents[2]


def assert_same_end(run: Path, other: Path) -> None:
    """Weights, average, optimiser, chains, order and random streams are equal to the bit."""
    stored, expected = (storage.load(max(r.glob("checkpoints/*.zip"))) for r in (run, other))
    assert stored.facts == expected.facts
    assert stored.tensors.keys() == expected.tensors.keys()
    assert all(map(torch.equal, stored.tensors.values(), expected.tensors.values()))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("trained")
    assert main(["fit", str(config(folder))]) == 0
    return folder / "run"


def test_a_run_is_a_folder_with_everything_in_it(trained: Path) -> None:
    names = {path.name for path in trained.iterdir() if not path.name.startswith(("events", "."))}
    assert names >= {"config.yaml", "checkpoints", "model.zip", "plot.png"}
    assert (trained / "plot.png").read_bytes().startswith(PNG)
    steps = [int(path.stem[-12:]) for path in sorted((trained / "checkpoints").iterdir())]
    assert steps == [50, 60]
    events = EventAccumulator(str(trained))
    events.Reload()
    assert {"loss", "energy_gap", "acceptance"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"]


def test_the_resolved_config_gives_the_same_run_again(trained: Path, tmp_path: Path) -> None:
    again = read_fit(trained / "config.yaml")
    assert yaml.safe_load(again.text) == yaml.safe_load((trained / "config.yaml").read_text())
    options = ["--run", str(tmp_path / "again")]
    assert main(["fit", str(trained / "config.yaml"), *options]) == 0
    assert_same_end(tmp_path / "again", trained)


def test_the_saved_energy_is_the_average_of_the_last_checkpoint(trained: Path) -> None:
    saved = networks.MLPEnergy(2, (16,))
    saved.load_state_dict(storage.load(trained / "model.zip").tensors)
    setup = build(read_fit(trained / "config.yaml"))
    assert restore_average(setup, existing(trained, of="energy")) == 60
    x = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(saved(x), setup.energy(x))


def test_sample_writes_an_array_and_a_picture(trained: Path, tmp_path: Path) -> None:
    for name in ("a.npy", "b.npy", "c.csv"):
        arguments = ["sample", str(trained), "--n", "120", "--out", str(tmp_path / name)]
        assert main([*arguments, "--seed", "3"]) == 0
    a, b = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    assert a.shape == (120, 2)
    assert a.dtype == np.float32
    assert np.array_equal(a, b)
    assert np.allclose(np.loadtxt(tmp_path / "c.csv", delimiter=","), a)
    assert (a >= [-2, -1.5]).all()
    assert (a <= [3, 2]).all()
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
    assert main(["sample", str(trained)]) == 0
    assert np.load(trained / "samples.npy").shape == (1000, 2)
    assert main(["sample", str(trained), "--n", "7"]) == 0
    assert np.load(trained / "samples.npy").shape == (7, 2)


@pytest.mark.parametrize("name", ["mine.npy", "mine.png"])
def test_samples_are_written_over_files_only_if_asked_to(
    trained: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine")
    command = ["sample", str(trained), "--n", "7", "--out", str(tmp_path / "mine.npy")]
    assert main(command) == 2
    assert f"{name} is there already: --overwrite, or another --out" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"
    assert main([*command, "--overwrite"]) == 0
    assert np.load(tmp_path / "mine.npy").shape == (7, 2)
    assert (tmp_path / "mine.png").read_bytes().startswith(PNG)


def test_ctrl_c_saves_says_how_to_resume_and_the_end_is_the_same(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    advance = Training.advance

    def interrupted(training: Training) -> Any:
        if training.step == 31:
            signal.raise_signal(signal.SIGINT)
        return advance(training)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Training, "advance", interrupted)
        assert main(["fit", str(config(tmp_path))]) == 130
    said = capsys.readouterr().err
    assert "saving, then stopping" in said
    assert f"Go on (from step 32): ebrl resume {run}" in said
    assert not (run / "model.zip").exists()
    assert main(["sample", str(run), "--n", "5"]) == 0
    assert main(["resume", str(run)]) == 0
    assert_same_end(run, trained)
    assert main(["resume", str(run)]) == 0  # nothing left to do
    assert_same_end(run, trained)


def test_a_killed_process_resumes_bit_for_bit(tmp_path: Path) -> None:
    changes = {"steps": 3_000, "checkpoint_every": 100}
    path = config(tmp_path, **changes)
    process = subprocess.Popen(
        [sys.executable, "-m", "ebrl.command", "fit", str(path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    run = tmp_path / "run"
    while process.poll() is None and not list(run.glob("checkpoints/checkpoint-*.zip")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    reached = int(max(run.glob("checkpoints/*.zip")).stem[-12:])
    config_text = (run / "config.yaml").read_text()
    total = reached + 60
    (run / "config.yaml").write_text(config_text.replace("steps: 3000", f"steps: {total}"))
    assert main(["resume", str(run)]) == 0
    whole = config(tmp_path / "whole", **{**changes, "steps": total})
    assert main(["fit", str(whole)]) == 0
    assert_same_end(run, tmp_path / "whole" / "run")


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="Windows has no wait4")
def test_after_ctrl_c_a_process_is_gone_within_a_second(tmp_path: Path) -> None:
    """In CPU seconds, which do not count how busy the machine is."""
    command = [sys.executable, "-c", "import sys, ebrl.command; sys.exit(ebrl.command.main())"]
    path = config(tmp_path, steps=100_000, checkpoint_every=100)
    process = subprocess.Popen([*command, "fit", str(path)], stderr=subprocess.DEVNULL)
    while not list((tmp_path / "run").glob("checkpoints/*.zip")):
        assert process.poll() is None
        time.sleep(0.1)
    before = psutil.Process(process.pid).cpu_times()
    process.send_signal(signal.SIGINT)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 130
    assert used.ru_utime + used.ru_stime - before.user - before.system < 0.6


def test_files_of_data_of_any_shape(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    x = np.random.default_rng(0).normal(size=(100, 3))
    np.savetxt(tmp_path / "x.csv", x, delimiter=",", header="a,b,c", comments="")
    objective = {"class_path": "EnergyDiscrepancy", "init_args": {"sigma": 0.25}}
    shape = {"class_path": "ebrl.command.spaces.Unbounded", "init_args": {"shape": [3]}}
    path = config(
        tmp_path,
        data=str(tmp_path / "x.csv"),
        energy={"class_path": "MLPEnergy", "init_args": {"dimension": 3, "hidden": [8]}},
        objective=objective,
        sampler={**sampler(3), "space": shape},
        steps=3,
    )
    assert main(["fit", str(path)]) == 0
    assert "no picture: x has shape (3,)" in capsys.readouterr().out
    assert main(["sample", str(tmp_path / "run"), "--n", "7"]) == 0
    assert np.load(tmp_path / "run" / "samples.npy").shape == (7, 3)
    np.save(tmp_path / "x.npy", x[:, 0])
    line = {"class_path": "MLPEnergy", "init_args": {"dimension": 1, "hidden": [8]}}
    space = {"class_path": "ebrl.spaces.Box", "init_args": {"low": [-4.0], "high": [4.0]}}
    path = config(
        tmp_path / "line",
        data=str(tmp_path / "x.npy"),
        energy=line,
        objective=objective,
        sampler={**sampler(3), "space": space},
        steps=3,
    )
    assert main(["fit", str(path)]) == 0
    assert (tmp_path / "line" / "run" / "plot.png").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--stepz", "3"], "Did you mean `steps`?"),
        (["--energy.hiden", "[3]"], "--energy.hiden: MLPEnergy has no such argument"),
        (["--objective", "DenoisingScoreMatching"], "--objective: missing: objective.sigma."),
        (["--objective", "DenoisingScoreMaching"], "Did you mean `DenoisingScoreMatching`?"),
        (["--objective.sampler.stepsize", "1"], "Did you mean `step_size`?"),
        (["--objective.sampler.kernel", "ebrl.kernels.MULA"], "Did you mean `ULA`?"),
        (["--objective.sampler.step_size", "-1"], "positive step_size"),
        (["--objective.chains.space.low", "[4.0, 4.0]"], "low < high"),
        (["--energy.dimension", "3"], "(*batch, 3)"),
        (["--data", "nowhere.csv"], "there is no data file"),
        (["--batch_size", "301"], "smaller batch_size"),
        (["--precision", "half"], "precision"),
        (["--objective", "ebrl.objectives.CrossEntropy"], "ClassifierEnergy"),
        (["--sampler.kernel", "ebrl.kernels.SVGD"], "whose step size changes its acceptance"),
        (["--sampler.kernel", "ebrl.kernels.Gibbs"], "of real coordinates for Box, got Gibbs"),
        (["--energy.condition_dimension", "3"], "conditional"),
        (["--ema_decay", "1"], "ema_decay"),
        (["--objective.sampler.space.high", "[3.0, 0.1]"], "rows outside: widen it"),
    ],
)
def test_mistakes_get_one_line_and_no_run(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["fit", str(config(tmp_path)), *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("objective", ["PseudoLikelihood", "RatioMatching", "SlicedScoreMatching"])
def test_every_objective_is_known_to_a_config(objective: str, tmp_path: Path) -> None:
    np.save(tmp_path / "bits.npy", np.random.default_rng(0).integers(0, 2, (100, 2)).astype(float))
    path = config(
        tmp_path,
        data=str(tmp_path / "bits.npy"),
        objective={"class_path": f"ebrl.objectives.{objective}"},
        sampler=None,
        steps=2,
    )
    assert main(["fit", str(path)]) == 0
    assert main(["resume", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("arguments", [["--help"], ["fit", "--help"]])
def test_a_reader_may_leave_early(arguments: list[str]) -> None:
    command = [sys.executable, "-u", "-m", "ebrl.command", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode in (0, 141)


def test_a_file_in_the_way_gets_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "taken.npy").mkdir()
    assert main(["sample", str(trained), "--n", "3", "--out", str(tmp_path / "taken.npy")]) in (
        1,
        2,
    )
    assert capsys.readouterr().err.count("\n") == 1


def test_a_nan_in_the_data_is_found_before_work(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "bad.csv").write_text("x,y\n1,2\n3,nan\n")
    assert main(["fit", str(config(tmp_path, data=str(tmp_path / "bad.csv")))]) == 2
    assert "nan in row 1, column 1" in capsys.readouterr().err


def test_divergence_says_the_cure(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = config(tmp_path, learning_rate=1e30, ema_decay=0.0, steps=20)
    assert main(["fit", str(path)]) == 1
    error = capsys.readouterr().err
    assert "diverged at step" in error
    assert "learning rate" in error


def test_runs_of_agents_and_of_energies_are_told_apart(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["evaluate", str(trained)]) == 2
    assert "ebrl sample" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("agent:\n  class_path: ebrl.agents.SoftQ\n")
    assert main(["sample", str(tmp_path)]) == 2
    assert "ebrl evaluate" in capsys.readouterr().err
    assert main(["sample", str(trained), "--out", str(tmp_path / "x.txt")]) == 2
    assert ".npy or .csv" in capsys.readouterr().err


def test_photographs_train_an_image_energy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gray, run = str(ROOT / "configs" / "vision" / "gray.yaml"), str(tmp_path / "run")
    small = ["--energy.widths", "[8]", "--data.stride", "64", "--objective.plain", "1"]
    small += ["--data.folders", "[skimage]", "--steps", "2", "--run", run]
    assert main(["fit", gray, *small]) == 2
    said = capsys.readouterr().err
    assert "with leave_out=20 of each folder: leave_out=0 takes all (--data.leave_out 0)" in said
    assert main(["fit", gray, *small, "--data.leave_out", "0"]) == 0
    assert "psnr" in capsys.readouterr().out
    assert storage.load(tmp_path / "run" / "model.zip").facts["step"] == 2
    assert main(["fit", gray, "--data.folders", "[nowhere]"]) == 2
    assert "there is no folder nowhere" in capsys.readouterr().err
    assert main(["sample", run]) == 1
    assert "conditional" in capsys.readouterr().err


def test_the_shipped_config_is_whole() -> None:
    setup = build(read_fit(ROOT / "configs" / "fit" / "two_moons.yaml"))
    assert isinstance(setup.energy, networks.MLPEnergy)
    assert setup.settings.steps == 1_500


def test_a_run_keeps_its_device_and_the_precision_that_was_fastest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config(tmp_path, precision="fastest")
    for faster, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda faster=faster: faster)
        parsed = read_fit(path, ["--device", "cpu"]).parsed
        assert (parsed.device, parsed.precision) == ("cpu", precision)


def test_a_device_that_is_not_there_gets_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", str(trained), "--device", "nowhere"]) == 2
    assert main(["fit", str(config(tmp_path)), "--device", "nowhere"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert all("nowhere cannot be used here" in line for line in said)
    assert main(["sample", str(trained), "--device", "cpu", "--out", str(tmp_path / "x.npy")]) == 0
