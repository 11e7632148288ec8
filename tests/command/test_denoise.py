"""`ebrl denoise` from end to end: what is written and said, and what is left after failures."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import tifffile
from photographs import GaussianImages, colour, grey, noisy, read, wiener, write
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ebrl.command import main


@pytest.fixture(autouse=True)
def known_prior(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Results in closed form, and paths as a person writes them."""
    import_module("ebrl.vision.denoising")  # first imported later, it would keep what stands in
    home = import_module("ebrl.vision.shipped")
    monkeypatch.setattr(home, "prior_of", lambda pixels: GaussianImages())
    monkeypatch.chdir(tmp_path)


def names(folder: str | Path = ".") -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


# ---- what it does ---------------------------------------------------------------------------


def test_one_photograph_with_a_known_sigma(capsys: pytest.CaptureFixture[str]) -> None:
    image = noisy(grey())
    write(Path("photo.png"), image)
    assert main(["denoise", "photo.png", "--sigma", "25"]) == 0
    assert names() == {"photo.png", "photo-denoised.png", "photo-before-after.png"}
    assert (read(Path("photo.png")) == image).all()
    assert (read(Path("photo-denoised.png")) == wiener(image, 25)).all()
    assert "sigma 25.0\n" in capsys.readouterr().out


def test_the_picture_shows_before_and_after_unscaled() -> None:
    image = noisy(colour())
    write(Path("photo.png"), image)
    assert main(["denoise", "photo.png", "--sigma", "25"]) == 0
    shown = read(Path("photo-before-after.png"))
    width = image.shape[1]
    assert (shown[:, :width] == image).all()
    assert (shown[:, -width:] == wiener(image, 25)).all()
    assert (shown[:, width:-width] == 255).all()


def test_a_large_photograph_is_shown_by_its_middle() -> None:
    image = np.tile(noisy(grey()), (30, 25))  # 1200 x 1400
    write(Path("photo.png"), image)
    assert main(["denoise", "photo.png", "--sigma", "25"]) == 0
    shown = read(Path("photo-before-after.png"))
    assert shown.shape == (1_000, 2_008, 3)
    assert (shown[:, :1_000, 0] == image[100:1_100, 200:1_200]).all()


def test_the_noise_is_estimated_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("photo.png"), noisy(np.full((64, 64), 128, np.uint8), 20))
    assert main(["denoise", "photo.png"]) == 0
    found = re.search(r"sigma ([\d.]+) \(estimated\)", capsys.readouterr().out)
    assert found is not None
    assert float(found[1]) == pytest.approx(20, rel=0.1)


def test_strength_scales_the_noise() -> None:
    image = noisy(grey())
    write(Path("photo.png"), image)
    assert main(["denoise", "photo.png", "--sigma", "25", "--strength", "0.5"]) == 0
    assert (read(Path("photo-denoised.png")) == wiener(image, 12.5)).all()


def test_files_folders_and_patterns_each_photograph_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("a.png", "holiday/b.PNG", "holiday/c.tif", "scans/d.png", "scans/e.bmp"):
        write(Path(name), noisy(grey()))
    Path("holiday/notes.txt").write_text("not an image")
    arguments = ["a.png", "./a.png", "holiday", "scans/*.png"]
    assert main(["denoise", *arguments, "--sigma", "25"]) == 0
    made = {"a-denoised.png", "holiday/b-denoised.PNG", "holiday/c-denoised.tif"}
    assert names() >= made | {"scans/d-denoised.png"}
    assert not any("e-denoised" in name or "before-after" in name for name in names())
    assert "4 denoised, 0 not" in capsys.readouterr().out


def test_a_second_run_overwrites_only_when_it_is_told_to(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(Path("holiday/b.png"), noisy(grey()))
    assert main(["denoise", "holiday", "--sigma", "25"]) == 0
    assert names("holiday") == {"b.png", "b-denoised.png", "b-before-after.png"}
    Path("holiday/b-denoised.png").write_text("mine")
    assert main(["denoise", "holiday", "--sigma", "25"]) == 1
    assert "b-denoised.png is there already: --overwrite" in capsys.readouterr().err
    assert Path("holiday/b-denoised.png").read_text() == "mine"
    Path("holiday/b-denoised.png").unlink()
    assert main(["denoise", "holiday", "--sigma", "25"]) == 1  # the picture is there
    assert main(["denoise", "holiday", "--sigma", "25", "--overwrite"]) == 0
    assert names("holiday") == {"b.png", "b-denoised.png", "b-before-after.png"}


def test_results_go_to_a_folder_or_a_file() -> None:
    write(Path("photo.png"), noisy(grey()))
    assert main(["denoise", "photo.png", "--out", "deep/clean", "--no-picture"]) == 0
    assert names("deep") == {"clean/photo-denoised.png"}
    assert main(["denoise", "photo.png", "--out", "other.tif", "--no-picture"]) == 0
    assert (read(Path("other.tif")) == read(Path("deep/clean/photo-denoised.png"))).all()


def test_several_with_pictures() -> None:
    for name in ("a.png", "b.png"):
        write(Path(name), noisy(grey()))
    assert main(["denoise", "a.png", "--picture", "b.png", "--sigma", "25"]) == 0
    assert {"a-before-after.png", "b-before-after.png"} <= names()


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("grey.png", noisy(grey())),
        ("colour.png", noisy(colour())),
        ("colour.webp", noisy(colour())),
        ("grey.webp", noisy(grey())),
        ("colour.bmp", noisy(colour())),
        ("colour.jpg", noisy(colour())),
        ("grey.jpeg", noisy(grey())),
        ("colour.tif", noisy(colour())),
        ("sixteen.tif", noisy(grey()).astype(np.uint16) * 257),
        ("sixteen.png", noisy(grey()).astype(np.uint16) * 257),
        ("swapped.tiff", (noisy(grey()).astype(np.uint16) * 257).astype(">u2")),
        ("floats.tif", noisy(grey()).astype(np.float32) / 255),
        ("clear.png", np.dstack([noisy(colour()), grey()])),
        ("clear.tif", np.dstack([noisy(grey()), grey()])),
    ],
)
def test_formats_and_bits_are_kept(name: str, image: np.ndarray) -> None:
    path = write(Path(name), image)
    with Image.open(path) as before:
        style, mode = before.format, before.mode.replace("16B", "16")  # of either byte order
    assert main(["denoise", name, "--sigma", "25"]) == 0
    with Image.open(path.with_stem(f"{path.stem}-denoised")) as after:
        assert (after.format, after.mode.replace("16B", "16"), after.size) == (
            style,
            mode,
            before.size,
        )
        result = np.asarray(after)
    white = {"u": np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1}.get(
        image.dtype.kind, 1
    )
    colours = {2: 1, 4: 3}.get(image.shape[2] if image.ndim == 3 else 0)
    if style not in ("JPEG", "WEBP"):  # which lose a little
        expected = wiener((image[..., :colours] / white * 255).round().astype(np.uint8), 25)
        assert np.abs(result[..., :colours] / white * 255 - expected).max() < 0.51
    if colours:
        assert (result[..., colours:] == image[..., colours:]).all()


def test_exif_and_profile_are_kept_and_the_photograph_stands_upright() -> None:
    from PIL import ImageCms

    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a maker", 6  # the camera was held upright
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(noisy(colour())).save("photo.jpg", exif=exif, icc_profile=profile)
    assert main(["denoise", "photo.jpg"]) == 0
    with Image.open("photo-denoised.jpg") as result:
        assert result.size == (40, 56)  # was 56 x 40, lying
        assert result.getexif()[0x010F] == "a maker"
        assert 0x0112 not in result.getexif()
        assert result.info["icc_profile"] == profile


def test_figures_against_a_reference_are_those_of_scikit_image(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clean, image = colour(), noisy(colour())
    write(Path("clean/photo.tif"), clean)
    write(Path("photo.png"), image)
    for reference in ("clean", "clean/photo.tif"):
        arguments = ["--sigma", "25", "--reference", reference, "--overwrite"]
        assert main(["denoise", "photo.png", *arguments]) == 0
        said = capsys.readouterr().out
        for result in (image, read(Path("photo-denoised.png"))):
            assert f"{peak_signal_noise_ratio(clean, result):.2f}" in said
            assert f"{structural_similarity(clean, result, channel_axis=2):.3f}" in said


def test_mean_figures_of_several(capsys: pytest.CaptureFixture[str]) -> None:
    images = {f"{seed}.png": noisy(grey(), seed=seed) for seed in range(2)}
    for name, image in images.items():
        write(Path(name), image)
    write(Path("clean.tif"), grey())
    assert main(["denoise", *images, "--sigma", "25", "--reference", "clean.tif"]) == 0
    psnr = np.mean([peak_signal_noise_ratio(grey(), image) for image in images.values()])
    assert f"mean PSNR {psnr:.2f} -> " in capsys.readouterr().out


def test_equal_and_tiny_photographs_have_figures_too(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("photo.png"), grey(5, 5))
    arguments = ["--sigma", "0", "--reference", "photo.png", "--out", "same.png"]
    assert main(["denoise", "photo.png", *arguments]) == 0
    assert "PSNR inf -> inf dB\n" in capsys.readouterr().out
    assert (read(Path("same.png")) == grey(5, 5)).all()


def test_it_loads_no_reinforcement_learning() -> None:
    write(Path("photo.png"), noisy(grey()))
    program = (
        "import sys, photographs, importlib\n"
        "home = importlib.import_module('ebrl.vision.shipped')\n"
        "home.prior_of = lambda pixels: photographs.GaussianImages()\n"
        "from ebrl.command import main\n"
        "assert main(['denoise', 'photo.png']) == 0\n"
        "print(*{'gymnasium', 'stable_baselines3', 'matplotlib', 'tensorboard'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("package", ["PIL", pytest.param("skimage", marks=pytest.mark.slow)])
def test_without_the_extra_it_says_what_to_install(
    package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from ebrl.command import main\n"
        "sys.exit(main(['denoise', 'photo.png']))"
    )
    write(Path("photo.png"), noisy(grey()))
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stderr == f"ebrl: this needs {package}: pip install 'ebrl[vision]'\n"


# ---- bad input ------------------------------------------------------------------------------


def damaged(kind: str) -> Path:
    path = write(Path("bad.png"), noisy(grey()))
    whole = path.read_bytes()
    match kind:
        case "text":
            path.write_text("not an image")
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        case "header only":
            path.write_bytes(whole[:33])
        case "two kinds":
            path = path.rename("bad.tif")
            with tifffile.TiffWriter(path) as file:
                file.write(grey(), photometric="minisblack")
                file.write(colour(41, 57), photometric="rgb")
        case "channels":
            path = path.rename("bad.tif")
            tifffile.imwrite(
                path,
                np.dstack([grey()] * 5),
                photometric="minisblack",
                planarconfig="contig",
            )
        case "animation":
            path = path.rename("bad.gif")
            frames = [Image.fromarray(noisy(grey(), seed=seed)) for seed in range(3)]
            frames[0].save(path, save_all=True, append_images=frames[1:])
        case "NaN":
            path = path.rename("bad.tif")
            tifffile.imwrite(path, np.full((40, 40), np.nan, np.float32))
        case "float of 255":
            path = path.rename("bad.tif")
            tifffile.imwrite(path, grey().astype(np.float32))
        case "tiny":
            Image.fromarray(grey(5, 5)).save(path)
        case "missing":
            path.unlink()
        case "folder":
            path.unlink()
            path = Path("bad")
            path.mkdir()
            (path / "notes.txt").write_text("no image")
        case "pattern":
            path.unlink()
            path = Path("bad*.jpg")
    return path


BAD = {
    "text": "not an image",
    "empty": "not an image",
    "truncated": "damaged image",
    "header only": "not an image",
    "two kinds": "holds 2 images of different kinds",
    "channels": "has 5 channels",
    "animation": "holds 3 images",
    "NaN": "NaN",
    "float of 255": "divide by 255",
    "tiny": "at least 8x8 pixels",
    "missing": "there is no such file",
    "folder": "a folder without images",
    "pattern": "no image matches",
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_denoised_stops_nothing_else(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = damaged(kind)
    write(Path("good.png"), noisy(grey()))
    before = names()
    assert main(["denoise", str(bad), "good.png"]) == 1
    said = capsys.readouterr()
    assert names() == before | {"good-denoised.png"} | (
        # It alone is a photograph, once the others are no files at all.
        {"good-before-after.png"} if kind in ("missing", "folder", "pattern") else set()
    )
    (line,) = said.err.splitlines()
    assert line.startswith("ebrl: ")
    assert str(bad) in line
    assert BAD[kind] in line
    assert said.out.splitlines()[-2:] == ["Done: 1 denoised, 1 not.", f"  not {bad}"]


@pytest.mark.parametrize("kind", ["text", "missing", "folder"])
def test_nothing_but_failures(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    bad = damaged(kind)
    before = names()
    assert main(["denoise", str(bad)]) == 1
    assert names() == before
    assert BAD[kind] in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable to root")
def test_an_unreadable_file(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("bad.png"), noisy(grey())).chmod(0)
    assert main(["denoise", "bad.png"]) == 1
    assert "bad.png cannot be read (Permission denied)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sigma", "-1"], "--sigma: expected a number from 0 to 255, got -1"),
        (["--sigma", "6425"], "expected a number from 0 to 255, got 6425"),
        (["--sigma", "nan"], "expected a number from 0 to 255, got nan"),
        (["--sigma", "much"], "expected a number from 0 to 255, got much"),
        (["--strength", "-0.5"], "--strength: expected a finite number >= 0, got -0.5"),
        (["--strength", "inf"], "--strength: expected a finite number >= 0, got inf"),
        (["--sigmas", "25"], "Did you mean `--sigma`?"),
        (["--reference", "nowhere.png"], "there is no file or folder nowhere.png"),
        (["--out", "nowhere/clean.png"], "there is no folder nowhere"),
        (["--out", "photo.png/clean"], "expected a folder"),
        (["--out", "notes.txt"], "expected a folder"),
        (["--out", "/proc/clean"], "expected a folder"),
        (["other.png", "--out", "clean.png"], "expected a folder for 2 photographs"),
    ],
)
def test_a_wrong_command_does_nothing(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("photo.png", "other.png"):
        write(Path(name), noisy(grey()))
    Path("notes.txt").write_text("no folder")
    before = names()
    assert main(["denoise", "photo.png", *arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert names() == before


def test_no_photographs_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["denoise"]) == 2
    assert "photo" in capsys.readouterr().err


def test_sigma_in_the_units_of_floats_is_doubted(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("photo.png"), noisy(grey()))
    assert main(["denoise", "photo.png", "--sigma", "0.1"]) == 0
    assert "it is --sigma 25.5" in capsys.readouterr().err


def test_more_noise_than_was_learnt_is_doubted(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("photo.png"), noisy(grey()))
    assert main(["denoise", "photo.png", "--sigma", "50", "--strength", "2"]) == 0
    assert "sigma 100 is beyond the 60 that was learnt" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["photo.png", "./photo.png", "link.png", "same.png"])
def test_no_photograph_is_overwritten(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    image = noisy(grey())
    path = write(Path("photo.png"), image)
    Path("link.png").symlink_to("photo.png")
    Path("same.png").hardlink_to(path)
    assert main(["denoise", "photo.png", "--out", out]) == 1
    assert "would overwrite the photograph photo.png" in capsys.readouterr().err
    assert names() == {"photo.png", "link.png", "same.png"}
    assert (read(path) == image).all()


def test_a_result_that_is_another_photograph(capsys: pytest.CaptureFixture[str]) -> None:
    image = noisy(grey())
    for name in ("a.png", "a-denoised.png"):
        write(Path(name), image)
    assert main(["denoise", "a.png", "a-denoised.png"]) == 1
    assert "would overwrite the photograph a-denoised.png" in capsys.readouterr().err
    assert names() == {"a.png", "a-denoised.png", "a-denoised-denoised.png"}
    assert (read(Path("a-denoised.png")) == image).all()


def test_two_photographs_with_one_result(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x/a.png", "y/a.png", "y/b.png"):
        write(Path(name), noisy(grey()))
    assert main(["denoise", "x", "y", "--out", "clean"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("ebrl: y/a.png: its result clean/a-denoised.png is that of x/a.png")
    assert names("clean") == {"a-denoised.png", "b-denoised.png"}
    assert "2 denoised, 1 not" in said.out


def test_two_photographs_with_one_picture(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "a.jpg"):
        write(Path(name), noisy(grey()))
    assert main(["denoise", "a.png", "a.jpg", "--picture"]) == 1
    assert "a-before-after.png is that of a.png already" in capsys.readouterr().err
    assert names() == {"a.png", "a.jpg", "a-denoised.png", "a-before-after.png"}


def test_a_format_that_cannot_hold_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("clear.png"), np.dstack([noisy(colour()), grey()]))
    assert main(["denoise", "clear.png", "--out", "clear.jpg"]) == 1
    assert "JPEG holds 8 bits a channel, L, RGB; got uint8 RGBA" in capsys.readouterr().err
    assert names() == {"clear.png"}


def test_a_reference_of_another_size_or_missing(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write(Path(name), noisy(grey()))
    write(Path("clean/a.png"), grey())
    write(Path("clean/b.png"), grey(32, 32))
    assert main(["denoise", "a.png", "b.png", "c.png", "--reference", "clean"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert "b.png: expected a reference of the image's own" in said[0]
    assert "c.png: there is no image clean/c.png" in said[1]
    assert names() >= {"a-denoised.png"}
    assert not {"b-denoised.png", "c-denoised.png"} & names()


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 2,000 bytes: what a full disk or a quota does to large ones.

    Pytest's own output may be a file: it must not be written to meanwhile.
    """
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("large.png"), noisy(grey(90, 90)))
    write(Path("small.png"), noisy(grey(20, 20)))
    write(Path("large-denoised.png"), grey(8, 8))  # of an earlier run
    with full_disk():
        assert main(["denoise", "large.png", "small.png", "--sigma", "25", "--overwrite"]) == 1
    said = capsys.readouterr()
    assert "ebrl: large.png: could not write large-denoised.png (File too large)" in said.err
    assert names() == {"large.png", "small.png", "large-denoised.png", "small-denoised.png"}
    assert (read(Path("large-denoised.png")) == grey(8, 8)).all()


# ---- what users of many kinds ask for ------------------------------------------------------------


def test_a_page_compares_before_and_after() -> None:
    write(Path("photo.png"), noisy(grey()))
    assert main(["denoise", "photo.png", "--sigma", "25", "--page", "--no-picture"]) == 0
    assert names() == {"photo.png", "photo-denoised.png", "photo-before-after.html"}
    page = Path("photo-before-after.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "sigma 25.0" in page


def test_the_range_of_a_sensor_in_more_bits(capsys: pytest.CaptureFixture[str]) -> None:
    image = noisy(grey())
    tifffile.imwrite("cells.tif", image.astype(np.int16) * 16 - 500)
    assert main(["denoise", "cells.tif", "--sigma", "25"]) == 1
    assert "data_range" in capsys.readouterr().err
    arguments = ["--sigma", "25", "--range", "[-500,3580]"]
    assert main(["denoise", "cells.tif", *arguments]) == 0
    result = (tifffile.imread("cells-denoised.tif").astype(float) + 500) / 16
    assert np.abs(result - wiener(image, 25)).max() < 0.6


def test_pages_are_denoised_each_by_its_own_noise(capsys: pytest.CaptureFixture[str]) -> None:
    flat = np.full((64, 64), 128, np.uint8)
    stack = np.stack([noisy(flat, sigma) for sigma in (5, 40)])
    tifffile.imwrite("stack.tif", stack, photometric="minisblack")
    assert main(["denoise", "stack.tif"]) == 0
    said = re.search(r"sigma ([\d.]+) ([\d.]+) \(estimated\)", capsys.readouterr().out)
    assert said is not None
    assert [float(number) for number in said.groups()] == pytest.approx([5, 40], rel=0.15)
    assert tifffile.imread("stack-denoised.tif").shape == (2, 64, 64)


def test_what_cannot_be_written_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = import_module("ebrl.vision.denoising")
    monkeypatch.setattr(home, "denoise", lambda *_, **__: pytest.fail("it was denoised"))
    write(Path("clear.png"), np.dstack([noisy(colour()), grey()]))
    assert main(["denoise", "clear.png", "--out", "clear.jpg"]) == 1
    assert "JPEG holds" in capsys.readouterr().err
    assert main(["denoise", "clear.png", "--out", "clear.gif"]) == 2
    assert ".gif is not written" in capsys.readouterr().err
    assert names() == {"clear.png"}


def test_a_folder_that_is_read_only_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = import_module("ebrl.vision.denoising")
    monkeypatch.setattr(home, "denoise", lambda *_, **__: pytest.fail("it was denoised"))
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # tests may be root's
    write(Path("card/photo.png"), noisy(grey()))
    assert main(["denoise", "card/photo.png"]) == 1
    assert "cannot be written to card: choose another --out" in capsys.readouterr().err


def test_names_that_begin_with_a_dash_or_are_too_long() -> None:
    long = "n" * 245
    for name in ("-a.png", f"{long}.png", "z.png"):
        write(Path(name), noisy(grey()))
    arguments = ["--sigma", "25", "--no-picture", "--", "-a.png", f"{long}.png", "z.png"]
    assert main(["denoise", *arguments]) == 1
    assert {"-a-denoised.png", "z-denoised.png"} <= names()


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_of_a_camera_is_said_with_advice_that_works(
    channels: int, capsys: pytest.CaptureFixture[str]
) -> None:
    white = np.random.RandomState(0).randn(192, 192, channels)
    coarse = gaussian_filter(white, 1.0, mode="wrap", axes=(0, 1))
    image = (128 + 10 * coarse / coarse.std()).round().astype(np.uint8)
    write(Path("photo.png"), image.squeeze())
    assert main(["denoise", "photo.png"]) == 0
    said = capsys.readouterr().err
    assert "coarser than a pixel" in said
    advised = ["--prior", "camera"] if "--prior camera" in said else ["--sigma", "10"]
    assert main(["denoise", "photo.png", "--overwrite", *advised]) == 0


@pytest.mark.parametrize("device", ["nowhere", "cuda:7"])
def test_a_device_that_is_not_there(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("photo.png"), noisy(grey()))
    assert main(["denoise", "photo.png", "--device", device]) == 2
    assert "device: " in capsys.readouterr().err
