"""`ebrl generate` from end to end: what is drawn, said and written, and what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from photographs import GaussianImages, grey, read, write
from torch import Tensor, nn

from ebrl.command import main
from ebrl.energies import ClassifierEnergy
from ebrl.vision import fashion
from ebrl.vision.fashion import CLASSES
from ebrl.vision.networks import ANY_LEVEL

SIDE, GAP = 28, 2


class Brightness(nn.Module):
    """Logits of ten classes: images of mean brightness .455, .465, … .545, each .01 wide."""

    def forward(self, x: Tensor) -> Tensor:
        middles = 0.455 + 0.01 * torch.arange(10)
        return -100_000 * (x.mean((1, 2, 3)).unsqueeze(1) - middles).square()


def any_level(width: float) -> GaussianImages:
    """Return images of independent pixels, known at every level of noise."""
    prior = GaussianImages(width)
    prior.levels = ANY_LEVEL
    return prior


@pytest.fixture(autouse=True)
def known_prior(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Images of independent pixels and a classifier of their brightness; paths as people write."""
    energies = {
        "fashion": any_level(0.2),
        "fashion-classifier": ClassifierEnergy(Brightness()),
    }
    monkeypatch.setattr(import_module("ebrl.vision.shipped"), "pretrained", energies.get)
    monkeypatch.chdir(tmp_path)


def cells(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return the images of a grid of scale 1, `(rows * columns, 28, 28)`."""
    assert picture.shape == (rows * (SIDE + GAP) + GAP, columns * (SIDE + GAP) + GAP)
    inner = picture[GAP:, GAP:].reshape(rows, SIDE + GAP, columns, SIDE + GAP)
    return inner[:, :SIDE, :, :SIDE].swapaxes(1, 2).reshape(-1, SIDE, SIDE)


# ---- what it does ---------------------------------------------------------------------------


def test_sixty_four_images_of_the_law_in_a_square(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--out", "grid.png", "--scale", "1"]) == 0
    pixels = cells(read(Path("grid.png")), 8, 8) / 255
    assert pixels.mean() == pytest.approx(0.5, abs=0.01)
    assert pixels.std() == pytest.approx(0.2, abs=0.02)  # less a little, for what is cut off
    said = capsys.readouterr().out
    assert "64 images, 18 levels, seed 0" in said
    assert "grid.png" in said
    assert "accepted" not in said
    assert [path.name for path in Path().iterdir()] == ["grid.png"]


def test_one_image_is_a_picture_of_its_own_and_large() -> None:
    assert main(["generate", "--out", "one.png", "--count", "1", "--scale", "3"]) == 0
    assert read(Path("one.png")).shape == (3 * (SIDE + 2 * GAP),) * 2


def test_a_seed_is_an_answer_and_another_is_another() -> None:
    for name, seed in (("a.png", "5"), ("b.png", "5"), ("c.png", "6")):
        assert main(["generate", "--out", name, "--count", "4", "--seed", seed]) == 0
    assert (read(Path("a.png")) == read(Path("b.png"))).all()
    assert (read(Path("a.png")) != read(Path("c.png"))).any()


def test_more_than_go_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "--out", "grid.png", "--count", "130", "--levels", "4", "--scale", "1"]
    assert main([*command, "--corrector", "langevin"]) == 0
    images = cells(read(Path("grid.png")), 11, 12)
    assert len(np.unique(images[:130].reshape(130, -1), axis=0)) == 130
    assert (images[130:] == 255).all()
    assert re.search(r"accepted +1\.00", capsys.readouterr().out)  # of moves without a test


def test_metropolis_tells_how_many_moves_were_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "--out", "grid.png", "--count", "9", "--levels", "8"]
    assert main([*command, "--corrector", "mala", "--moves", "3"]) == 0
    found = re.search(
        r"accepted +([\d.]+), from level to level ([\d.]+) to ([\d.]+)", capsys.readouterr().out
    )
    assert found is not None
    mean, low, high = map(float, found.groups())
    assert 0 < low < 0.95  # at high levels; at low ones images are wide and moves are small
    assert low <= mean <= high <= 1


@pytest.mark.parametrize("label", ["6", "Shirt"])
def test_a_label_asks_for_a_class(label: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Class 6 begins at .51, and of all images one in twelve is as bright: deviation .2 / 28."""
    command = ["generate", "--out", "grid.png", "--scale", "1", "--seed", "1"]
    assert main([*command, "--label", label]) == 0
    brightness = cells(read(Path("grid.png")), 8, 8).mean((1, 2)) / 255
    assert (abs(brightness - 0.515) < 0.01).mean() > 0.9  # in it, or at its border
    assert brightness.mean() > 0.508
    assert "64 images of class shirt" in capsys.readouterr().out
    assert main([*command, "--label", label, "--strength", "0", "--overwrite"]) == 0
    assert abs(cells(read(Path("grid.png")), 8, 8).mean() / 255 - 0.5) < 0.003


def test_the_classes_are_those_of_the_data() -> None:
    assert tuple(CLASSES) == fashion.CLASSES


def test_a_run_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = fitted(tmp_path, "DiffusionEnergy")
    capsys.readouterr()
    command = ["generate", "--run", str(folder), "--out", "grid.png", "--count", "4"]
    assert main([*command, "--levels", "3", "--scale", "1"]) == 0
    assert read(Path("grid.png")).shape == (2 * 10 + GAP, 2 * 10 + GAP)  # of 8 x 8 digits
    assert "step 2: 4 images" in capsys.readouterr().out


def test_a_run_on_patches_of_photographs(tmp_path: Path) -> None:
    (tmp_path / "photographs").mkdir()
    write(tmp_path / "photographs" / "photo.png", grey())
    folders = {"folders": str(tmp_path / "photographs"), "size": 16}
    data = {"class_path": "ebrl.vision.Patches", "init_args": folders}
    command = ["generate", "--run", str(fitted(tmp_path, "DiffusionEnergy", data))]
    options = ["--out", "grid.png", "--count", "1", "--levels", "3", "--scale", "1"]
    assert main([*command, *options]) == 0
    assert read(Path("grid.png")).shape == (16 + 2 * GAP,) * 2


@pytest.mark.parametrize(
    "ask", ["main(['generate', '--out', 'x.png'])", "from ebrl import vision; vision.denoise"]
)
def test_without_a_package_of_the_extra_it_says_what_to_install(ask: str) -> None:
    program = f"import sys; sys.modules['imagecodecs'] = None; from ebrl.command import main; {ask}"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "needs imagecodecs: pip install 'ebrl[vision]'" in ran.stderr


# ---- what it refuses ------------------------------------------------------------------------


def test_a_picture_that_is_there_stays_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    Path("grid.png").write_text("mine")
    command = ["generate", "--out", "grid.png", "--count", "1", "--levels", "3"]
    assert main(command) == 2
    assert "grid.png is there already: --overwrite" in capsys.readouterr().err
    assert Path("grid.png").read_text() == "mine"
    assert main([*command, "--overwrite"]) == 0
    assert read(Path("grid.png")).ndim == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: out"),
        (["--out", "grid.txt"], "expected a file that ends in"),
        (["--out", "grid"], "expected a file that ends in"),
        (["--out", "nowhere/grid.png"], "there is no folder nowhere"),
        (["--out", "folder.png"], "folder.png: that is a folder"),
        (["--out", "a.png", "--count", "0"], "whole number from 1 to 2^32 - 1, got 0"),
        (["--out", "a.png", "--count", "many"], "whole number from 1 to 2^32 - 1, got many"),
        (["--out", "a.png", "--levels", "1"], "whole number from 2 to 1000, got 1"),
        (["--out", "a.png", "--seed", "-1"], "whole number from 0"),
        (["--out", "a.png", "--label", "10"], "a number from 0 to 9"),
        (["--out", "a.png", "--label", "-1"], "--label"),
        (["--out", "a.png", "--label", "snaeker"], "Did you mean `sneaker`?"),
        (["--out", "a.png", "--strength", "-1"], "a finite number >= 0"),
        (["--out", "a.png", "--corrector", "hmc"], "'langevin', 'mala'"),
        (["--out", "a.png", "--cuont", "3"], "Did you mean `--count`?"),
        (["--out", "a.png", "--run", "nowhere"], "not the folder of a run"),
        (["--out", "a.png", "--run", "nowhere", "--label", "3"], "Fashion-MNIST alone"),
    ],
)
def test_wrong_usage_is_told_in_a_line_before_any_work(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder.png").mkdir()
    assert main(["generate", *arguments]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not Path("a.png").exists()


def test_a_run_that_knows_too_little_noise(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = fitted(tmp_path, "GradientStepEnergy")
    capsys.readouterr()
    assert main(["generate", "--run", str(folder), "--out", "a.png"]) == 2
    assert "expected the run of an ebrl.vision.DiffusionEnergy" in capsys.readouterr().err


def test_images_that_grow_without_bound_are_no_picture(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        import_module("ebrl.vision.shipped"), "pretrained", lambda name: any_level(torch.nan)
    )
    assert main(["generate", "--out", "a.png", "--count", "1"]) == 1
    assert "grew without bound" in capsys.readouterr().err
    assert not Path("a.png").exists()


def test_help_teaches_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["generate", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "ebrl generate --label sneaker" in shown
    assert all(name in shown for name in CLASSES)


def fitted(folder: Path, energy: str, data: dict[str, Any] | None = None) -> Path:
    """Return the run of two steps of `ebrl fit`, on the digits by default."""
    config = {
        "energy": {
            "class_path": f"ebrl.vision.{energy}",
            "init_args": {"channels": 1, "widths": [4], "blocks": 1},
        },
        "data": data or {"class_path": "ebrl.vision.digits.images"},
        "objective": {"class_path": "ebrl.vision.Denoising"},
        "steps": 2,
        "batch_size": 4,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", str(folder / "config.yaml"), "--run", str(folder / "run")]) == 0
    return folder / "run"
