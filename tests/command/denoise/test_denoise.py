"""`ebrl denoise` from end to end: what is written and said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import tifffile
from photographs import colour, grey, names, noisy, read, wiener, write
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ebrl.command import main


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


def test_a_reference_is_in_the_range_of_the_photograph(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clean = grey().astype(np.uint16) * 3  # below 1024, where the noise goes beyond
    image = np.clip(clean + 40 * np.random.RandomState(0).randn(*clean.shape), 0, 4095).round()
    image[0, 0] = 1100
    tifffile.imwrite("photo.tif", image.astype(np.uint16))
    tifffile.imwrite("clean.tif", clean)
    for more, white in (([], 4095), (["--range=[0,1023]"], 1023)):
        arguments = ["--sigma", "2", "--reference", "clean.tif", "--overwrite", *more]
        assert main(["denoise", "photo.tif", *arguments]) == 0
        psnr = peak_signal_noise_ratio(clean / white, image / white, data_range=1)
        assert f"PSNR {psnr:.2f} -> " in capsys.readouterr().out


def test_figures_of_pages_are_means_and_an_exact_name_comes_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("clean").mkdir()
    tifffile.imwrite("pages.tif", np.stack([noisy(grey()), noisy(grey(), seed=1)]))
    tifffile.imwrite("clean/pages.tif", np.stack([grey(), grey()]))
    write(Path("clean/pages.png"), grey(8, 8))
    assert main(["denoise", "pages.tif", "--sigma", "25", "--reference", "clean"]) == 0
    pages = [peak_signal_noise_ratio(grey(), noisy(grey(), seed=seed)) for seed in (0, 1)]
    assert f"PSNR {np.mean(pages):.2f} -> " in capsys.readouterr().out


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
        "home.prior_of = lambda *_: photographs.GaussianImages()\n"
        "from ebrl.command import main\n"
        "assert main(['denoise', 'photo.png']) == 0\n"
        "print(*{'gymnasium', 'stable_baselines3', 'matplotlib', 'tensorboard'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
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
    assert "--range=[BLACK,WHITE]" in capsys.readouterr().err
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
    assert "compare --prior camera" in said
    assert main(["denoise", "photo.png", "--overwrite", "--prior", "camera"]) == 0
    cleaned = np.asarray(Image.open("photo-denoised.png"), dtype=float)
    assert cleaned.std() < 0.5 * image.std()


@pytest.mark.parametrize("device", ["nowhere", "cuda:7"])
def test_a_device_that_is_not_there(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("photo.png"), noisy(grey()))
    assert main(["denoise", "photo.png", "--device", device]) == 2
    assert "device: " in capsys.readouterr().err
