"""`ebrl compare`: what it reads, and that its figures are the known statistics."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import trim_mean

from ebrl.command import main
from ebrl.command.errors import UsageError
from ebrl.command.runs.curves import Curve, read_curves

pytest.importorskip("rliable", reason="no wheels of its `arch` for this Python")
from ebrl.command.pictures.comparison_pictures import draw, drawn
from ebrl.command.runs.comparison import Bootstrap, compare

HOW = Bootstrap(repetitions=200, seed=0)


def curve(method: str, last: float, task: str = "T") -> Curve:
    steps = np.array([10, 20])
    return Curve("x", task, method, steps, np.array([0.0, last]), steps / 10)


def run_folder(folder: Path, agent: str, returns: list[float]) -> Path:
    folder.mkdir(parents=True)
    arguments = {"policy": "MlpPolicy", "env": "Pendulum-v1"}
    config = {"agent": {"class_path": f"stable_baselines3.{agent}", "init_args": arguments}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    evaluations = [
        {
            "timesteps": 100 * (i + 1),
            "mean": value,
            "std": 0.0,
            "returns": [value, value],
            "lengths": [5, 5],
            "cpu_seconds": i + 1.0,
            "wall_seconds": i + 1.0,
        }
        for i, value in enumerate(returns)
    ]
    (folder / "evaluations.json").write_text(json.dumps(evaluations))
    return folder


def test_scores_are_interquartile_means_inside_their_intervals() -> None:
    scores = {"a": [1.0, 2.0, 3.0, 4.0, 100.0], "b": [0.0, 0.5, 1.5, 2.5, 3.5]}
    found = compare([curve(m, last) for m, lasts in scores.items() for last in lasts], HOW)
    for method, lasts in scores.items():
        estimate = found.scores[method]
        assert estimate.value == pytest.approx(trim_mean(lasts, 0.25))
        assert estimate.low <= estimate.value <= estimate.high
        band = found.over_steps["T", method]
        assert band.value[[0, -1]] == pytest.approx([0.0, estimate.value])
        assert found.seeds[method] == 5
    better = np.mean([x > y for x in scores["a"] for y in scores["b"]])
    assert found.improvement["a", "b"].value == pytest.approx(better)  # no ties here


def test_the_same_seed_gives_the_same_intervals() -> None:
    curves = [curve("a", last) for last in (1.0, 2.0, 5.0)]
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert compare(curves, HOW).scores == compare(curves, HOW).scores
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_several_tasks_are_scaled_and_none_may_be_missing() -> None:
    runs = [curve("a", 10.0, "T"), curve("a", 1000.0, "U"), curve("b", 5.0, "T")]
    with pytest.raises(UsageError, match=r"no run of b on U\. Train these, or compare"):
        compare(runs, HOW)
    found = compare([*runs, curve("b", 500.0, "U")], HOW)
    assert found.scores["a"].value == pytest.approx(1.0)
    assert found.scores["b"].value == pytest.approx(0.5)


def test_files_of_stable_baselines3_are_read(tmp_path: Path) -> None:
    (tmp_path / "ppo_1").mkdir()
    npz, monitor = tmp_path / "ppo_1" / "evaluations.npz", tmp_path / "0.monitor.csv"
    steps, results = np.array([100, 200]), np.array([[1.0, 3.0], [5.0, 7.0]])
    np.savez(npz, timesteps=steps, results=results, ep_lengths=np.ones((2, 2)))
    lines = ['#{"t_start": 0, "env_id": "X"}', "r,l,t", "1.0,10,0.1", "3.0,20,0.2"]
    monitor.write_text("\n".join(lines) + "\n")
    ours = run_folder(tmp_path / "runs" / "SAC-0", "SAC", [1.0, 2.0])
    read = read_curves([str(ours), str(npz), f"dqn@Y={monitor}", str(npz.parent)])
    assert [(one.method, one.task) for one in read] == [
        ("SAC", "Pendulum-v1"),
        ("ppo", "task"),
        ("dqn", "Y"),
        ("ppo", "task"),
    ]
    assert read[1].returns.tolist() == [2.0, 6.0]
    assert read[2].steps.tolist() == [10, 30]
    assert read[2].returns.tolist() == [1.0, 2.0]
    assert read[2].cpu_seconds is None


def test_a_path_with_an_equals_sign_is_a_path(tmp_path: Path) -> None:
    ours = run_folder(tmp_path / "lr=0.1" / "SAC-0", "SAC", [1.0])
    plain, labelled = read_curves([str(ours), f"slow@T={ours}"])
    assert (plain.method, plain.task) == ("SAC", "Pendulum-v1")
    assert (labelled.method, labelled.task) == ("slow", "T")


def test_it_writes_a_picture_a_report_and_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        str(run_folder(tmp_path / f"{agent}-{seed}", agent, [0.0, level + seed]))
        for agent, level in (("SAC", 5.0), ("TD3", 1.0))
        for seed in range(3)
    ]
    out = tmp_path / "figures"
    assert main(["compare", *runs, "--out", str(out), "--repetitions", "50"]) == 0
    report = (out / "comparison.md").read_text()
    assert "| SAC | 3 | 6 [" in report
    assert "| SAC over TD3 | 1 [" in report
    assert report in capsys.readouterr().out
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    with (out / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"SAC", "TD3"}
    assert float(rows[-1]["interquartile_mean"]) == pytest.approx(2.0)
    (out / "comparison.md").unlink()
    (out / "comparison.csv").write_text("mine")
    again = ["compare", *runs, "--out", str(out), "--repetitions", "50"]
    capsys.readouterr()
    assert main(again) == 2
    assert "is there already: --overwrite, or another --out" in capsys.readouterr().err
    assert (out / "comparison.csv").read_text() == "mine"
    assert main([*again, "--overwrite"]) == 0
    assert (out / "comparison.md").read_text() == report


def test_a_single_run_has_a_curve_and_no_profile(tmp_path: Path) -> None:
    comparison = compare([curve("SAC", 3.0)], HOW)
    draw(tmp_path / "one.png", comparison)
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    figure = drawn(comparison)
    assert [axes.get_title() for axes in figure.axes if axes.axison][-1] == "last evaluations"


def test_runs_that_are_unlike_each_other_are_named(tmp_path: Path) -> None:
    alike = [curve("a", 1.0, "S"), curve("a", 2.0, "S"), curve("a", 3.0, "T"), curve("a", 4.0, "T")]
    assert compare(alike, HOW).notes == []
    third = curve("a", 5.0, "T")._replace(source="runs/third")
    longer = curve("a", 5.0, "S")._replace(steps=np.array([10, 2_000]))
    notes = compare([*alike, third], HOW).notes
    assert notes == ["a has 2 seeds on another task: its score leaves out runs/third."]
    assert notes[0] in compare([*alike, third], HOW).markdown()
    (note,) = compare([*alike[1:], longer], HOW).notes
    assert "S end after 20 to 2,000 steps" in note


def test_other_configs_of_one_method_are_named(tmp_path: Path) -> None:
    runs = [run_folder(tmp_path / f"SAC-{i}", "SAC", [1.0]) for i in range(3)]
    for i, run in enumerate(runs):
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["agent"]["init_args"] |= {"seed": i, "gamma": 0.9 if i == 2 else 0.99}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert compare(read_curves([*map(str, runs[:2])]), HOW).notes == []
    (note,) = compare(read_curves([*map(str, runs)]), HOW).notes
    assert note == "Configs differ among the runs of SAC on Pendulum-v1."


def test_a_run_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(run_folder(tmp_path / "a", "SAC", [1.0]))
    assert main(["compare", run, f"{run}/../a"]) == 2
    assert "comes twice" in capsys.readouterr().err
    assert [curve.method for curve in read_curves([f"x={run}", f"y={run}"])] == ["x", "y"]


def test_what_cannot_be_compared_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = run_folder(tmp_path / "half", "SAC", [1.0])
    (half / "evaluations.json").write_text('[{"timesteps"')
    none = run_folder(tmp_path / "none", "SAC", [])
    (tmp_path / "evaluations.npz").write_bytes(b"PK\x03\x04 cut")
    empty, energy = (run_folder(tmp_path / name, "SAC", [1.0]) for name in ("empty", "energy"))
    (empty / "config.yaml").write_text("")
    (energy / "config.yaml").write_text("objective: {class_path: x.Y}\n")
    shapes, numbers = tmp_path / "shapes.npz", tmp_path / "numbers.npz"
    np.savez(shapes, timesteps=np.array(1), results=np.zeros((1, 2)))
    np.savez(numbers, timesteps=np.array([1]), results=np.array([[np.nan]]))
    (tmp_path / "monitor.csv").write_text("#{}\nr,l,t\n1\n")
    (tmp_path / "nan.monitor.csv").write_text("#{}\nr,l,t\n1,2,3\nnan,2,6\n")
    names = ["nowhere", "evaluations.npz", "shapes.npz", "numbers.npz", "monitor.csv"]
    names.append("nan.monitor.csv")
    sources = [*map(str, (half, none, empty, energy)), *(str(tmp_path / name) for name in names)]
    assert main(["compare", *sources]) == 2
    said = capsys.readouterr().err
    for part in (
        "damaged",
        "has not been evaluated yet",
        "this is not a config",
        "the run of an energy",
        "nowhere: there is no such file or folder",
        "evaluations.npz",
        "got shapes () and (1, 2)",
        "finite numbers as results",
        "rows r,l,t of SB3's Monitor",
        "finite returns, r, of every episode",
    ):
        assert part in said
    assert said.count("\n") == 1
