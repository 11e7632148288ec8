"""The wheel holds every module, config and data file, says what it needs, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOMES = {
    "ebrl": ROOT / "ebrl",
    "ebrl/agents": ROOT / "agents",
    "ebrl/configs": ROOT / "configs",
    "ebrl/envs": ROOT / "envs",
}
DATA = {"*.py", "*.yaml", "*.safetensors", "py.typed"}  # the files of a package that are installed
WORLDS = {"stable-baselines3", "gymnasium", "tensorboard", "matplotlib", "pillow", "tokenizers"}


def packaged() -> set[str]:
    """Name every file of the repository as the wheel must hold it."""
    return {
        f"{home}/{path.relative_to(folder).as_posix()}"
        for home, folder in HOMES.items()
        for pattern in DATA
        for path in folder.rglob(pattern)
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    elsewhere = folder / "setup.cfg"  # files of an earlier build would be packed, too
    elsewhere.write_text(f"[build]\nbuild_base = {folder / 'build'}\n")
    environment = {**os.environ, "DIST_EXTRA_CONFIG": str(elsewhere)}
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    command.append(str(ROOT))
    built = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "is absent from the `packages` configuration" not in built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_the_wheel_holds_every_module_config_and_data_file_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == packaged()


def test_the_expected_files_are_not_an_empty_list() -> None:
    assert {"ebrl/configs/pendulum.yaml", "ebrl/vision/weights/gray.safetensors"} <= packaged()
    assert {"ebrl/py.typed", "ebrl/agents/__init__.py"} <= packaged()


def test_weights_are_small() -> None:
    assert all(path.stat().st_size < 5_000_000 for path in (ROOT / "ebrl").rglob("*.safetensors"))


def test_the_wheel_holds_the_licence_and_the_command(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    facts = {name.partition(".dist-info/")[2] for name in names if ".dist-info/" in name}
    assert {"licenses/LICENSE", "entry_points.txt", "METADATA"} <= facts


def test_the_core_needs_no_world_and_no_command(metadata: Message) -> None:
    needed = {line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert {line.partition(">")[0] for line in needed} == {"torch", "numpy", "safetensors"}


def test_no_requirement_bounds_torch_from_above(metadata: Message) -> None:
    (torch,) = (line for line in metadata.get_all("Requires-Dist", []) if line.startswith("torch>"))
    assert "<" not in torch


def test_every_world_has_its_extra(metadata: Message) -> None:
    extras = metadata.get_all("Provides-Extra", [])
    assert {"agents", "vision", "sequences", "command", "mujoco", "box2d", "all"} <= set(extras)
    requirements = metadata.get_all("Requires-Dist", [])
    assert all(any(line.startswith(name) for line in requirements) for name in WORLDS)


def test_pictures_of_the_description_have_absolute_links(metadata: Message) -> None:
    text = str(metadata.get_payload())
    pictures = [part.partition(")")[0] for part in text.split("![")[1:]]
    links = [picture.partition("](")[2] for picture in pictures]
    assert links
    assert all(link.startswith("https://") for link in links)
