"""The wheel holds every package, the weights, the marker of types and the licence."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOMES = {"ebrl": ROOT / "ebrl", "ebrl/agents": ROOT / "agents", "ebrl/envs": ROOT / "envs"}
WEIGHTS = ROOT / "ebrl/vision/weights"


def modules() -> set[str]:
    """Name every module of the repository as the wheel must hold it."""
    return {
        f"{home}/{path.relative_to(folder).as_posix()}"
        for home, folder in HOMES.items()
        for path in folder.rglob("*.py")
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    built = subprocess.run([*command, str(ROOT)], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(path).namelist())


def test_the_wheel_holds_every_module(wheel: set[str]) -> None:
    assert modules() - wheel == set()


def test_the_wheel_holds_nothing_else(wheel: set[str]) -> None:
    packaged = {name for name in wheel if ".dist-info/" not in name}
    weights = {f"ebrl/vision/weights/{path.name}" for path in WEIGHTS.glob("*.zip")}
    assert packaged - modules() == {"ebrl/py.typed"} | weights


def test_weights_are_small() -> None:
    assert all(path.stat().st_size < 2_000_000 for path in WEIGHTS.glob("*.zip"))


def test_the_wheel_holds_the_licence_and_the_command(wheel: set[str]) -> None:
    facts = {name.partition(".dist-info/")[2] for name in wheel if ".dist-info/" in name}
    assert {"licenses/LICENSE", "entry_points.txt", "METADATA"} <= facts
