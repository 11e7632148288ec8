"""`ebrl fit` in several processes, which train one energy."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from fit_configs import config

from ebrl import storage
from ebrl.command import main
from ebrl.rolling import step_of


@pytest.mark.slow
def test_two_processes_fit_one_energy_and_one_or_two_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(config(tmp_path, steps=10)), "--devices", "2"]) == 0
    said = capfd.readouterr()
    assert said.out.count("Done: 10 steps") == 1  # the second process is silent
    assert "Traceback" not in said.err
    run = tmp_path / "run"
    assert yaml.safe_load((run / "config.yaml").read_text())["shares"] == 2
    assert main(["resume", str(run), "--steps", "12"]) == 0
    assert main(["resume", str(run), "--steps", "14", "--devices", "2"]) == 0
    assert main(["fit", str(config(tmp_path / "alone", steps=14)), "--shares", "2"]) == 0
    ends = [storage.load(folder / "model.zip").tensors for folder in (run, tmp_path / "alone/run")]
    for name, weight in ends[0].items():
        torch.testing.assert_close(ends[1][name], weight, rtol=0, atol=1e-5)


def test_what_processes_cannot_share_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path)
    for options, said in [
        (["--devices", "some"], "--devices: expected a whole number >= 1, got 'some'"),
        (["--shares", "3"], "expected a batch_size that 3 shares divide, got 64"),
        (["--workers", "2"], "tensors are in memory and need none, workers=0"),
    ]:
        assert main(["fit", str(path), *options]) == 2
        assert said in capsys.readouterr().err


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
@pytest.mark.parametrize(("launch", "devices"), [(TORCHRUN, []), ([], ["--devices", "2"])])
def test_a_signal_stops_all_processes_after_the_same_step(
    launch: list[str], devices: list[str], tmp_path: Path
) -> None:
    path = config(tmp_path, steps=100_000)
    command = [sys.executable, *launch, "-m", "ebrl", "fit", str(path), *devices]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "run").glob("checkpoints/*.zip")):
        assert process.poll() is None
        time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert "Go on (from step" in said
    reached = max(step_of(path) for path in (tmp_path / "run").glob("checkpoints/*.zip"))
    assert main(["resume", str(tmp_path / "run"), "--steps", str(reached + 1)]) == 0
