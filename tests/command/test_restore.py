"""`ebrl restore` from end to end: what is written and said, and what is left after failures."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from photographs import GaussianImages, colour, grey, noisy, read, write
from PIL import Image
from scipy.ndimage import convolve
from skimage.metrics import peak_signal_noise_ratio

from ebrl.command import main
from ebrl.vision.damages import kernel, known
from ebrl.vision.photograph import ImageError


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def known_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels of mean 1/2 that know nothing of each other: fast, and unlike any photograph."""
    import_module("ebrl.vision.restoration")  # first imported later, it would keep what stands in
    home = import_module("ebrl.vision.shipped")
    monkeypatch.setattr(home, "prior_of", lambda *_: GaussianImages())


def names(folder: str | Path = ".") -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


def blurred(image: np.ndarray, by: np.ndarray) -> np.ndarray:
    planes = image[..., None] if image.ndim == 2 else image
    results = [
        convolve(plane.astype(float), by, mode="nearest") for plane in np.moveaxis(planes, -1, 0)
    ]
    result = np.stack(results, -1).round().clip(0, 255).astype(np.uint8)
    return result.reshape(image.shape)


def smaller(image: np.ndarray, factor: int) -> np.ndarray:
    height, width = image.shape[0] // factor, image.shape[1] // factor
    blocks = image.reshape(height, factor, width, factor, -1).mean((1, 3))
    return blocks.round().astype(np.uint8).reshape(height, width, *image.shape[2:])


def holes(shape: tuple[int, ...], share: float = 0.5) -> np.ndarray:
    return (255 * (np.random.RandomState(0).rand(*shape) < share)).astype(np.uint8)


# ---- what it does, by the weights that ship --------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "photograph"),
    [("blur", grey), ("scale 2", colour), ("scale 3", grey), ("mask", colour)],
)
def test_it_is_nearer_to_the_clean_photograph(
    damage: str, photograph: Callable[..., np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    clean = photograph(36, 48)
    write(Path("clean.png"), clean)
    match damage.split():
        case ["blur"]:
            image, option = (
                blurred(clean, kernel("gaussian:1.2").numpy()),
                ["--blur", "gaussian:1.2"],
            )
        case ["scale", factor]:
            image, option = smaller(clean, int(factor)), ["--scale", factor]
        case _:
            mask = holes(clean.shape[:2])
            write(Path("mask.png"), mask)
            image, option = clean.copy(), ["--mask", "mask.png"]
            image[mask > 0] = 0
    write(Path("photo.png"), image)
    assert main(["restore", "photo.png", *option, "--reference", "clean.png"]) == 0
    assert names() >= {"photo-restored.png", "photo-before-after.png"}
    result = read(Path("photo-restored.png"))
    assert result.shape == clean.shape
    said = re.search(r"PSNR ([\d.]+) -> ([\d.]+) dB", capsys.readouterr().out)
    assert said is not None
    before, after = map(float, said.groups())
    assert after == pytest.approx(peak_signal_noise_ratio(clean, result), abs=0.01)
    assert after > before + 0.2
    assert (read(Path("photo.png")) == image).all()


# ---- what is written -------------------------------------------------------------------------


@pytest.mark.usefixtures("known_prior")
class TestFiles:
    def test_known_pixels_stay_and_holes_are_the_priors(self) -> None:
        image, mask = grey(), holes(grey().shape)
        write(Path("photo.png"), image)
        write(Path("mask.png"), mask)
        assert main(["restore", "photo.png", "--mask", "mask.png"]) == 0
        result = read(Path("photo-restored.png")).astype(int)
        assert np.abs(result - image)[mask == 0].max() <= 1
        assert result[mask > 0].std() < image[mask > 0].std()

    def test_known_pixels_beyond_white_stay_in_a_file_of_floats(self) -> None:
        image, mask = (grey() / 255).astype(np.float32), holes(grey().shape)
        image[tuple(np.argwhere(mask == 0)[9])] = 1.6
        tifffile.imwrite("photo.tif", image)
        write(Path("mask.png"), mask)
        assert main(["restore", "photo.tif", "--mask", "mask.png"]) == 0
        result = tifffile.imread("photo-restored.tif")
        assert (result[mask == 0] == image[mask == 0]).all()
        assert (result[mask > 0] != image[mask > 0]).any()

    def test_the_picture_shows_an_enlarged_photograph_beside_the_result(self) -> None:
        write(Path("photo.png"), colour())
        assert main(["restore", "photo.png", "--scale", "2"]) == 0
        shown, result = read(Path("photo-before-after.png")), read(Path("photo-restored.png"))
        assert result.shape == (80, 112, 3)
        assert (shown[:, -112:] == result).all()
        large = Image.fromarray(colour()).resize((112, 80), Image.Resampling.BICUBIC)
        assert np.abs(shown[:, :112].astype(int) - np.asarray(large)).max() <= 1

    def test_samples_show_where_pixels_are_unsure(self, capsys: pytest.CaptureFixture[str]) -> None:
        image, mask = grey(), np.zeros(grey().shape, np.uint8)
        mask[:, 30:] = 255
        write(Path("photo.png"), image)
        write(Path("mask.png"), mask)
        options = ["--mask", "mask.png", "--sigma", "2", "--samples", "4"]
        assert main(["restore", "photo.png", *options, "--seed", "1"]) == 0
        unsure = read(Path("photo-deviation.png"))
        assert unsure.shape == image.shape
        assert unsure.max() == 255
        assert unsure[mask > 0].mean() > 5 * unsure[mask == 0].mean()
        assert "deviation up to " in capsys.readouterr().out
        assert main(["restore", "photo.png", *options, "--seed", "1", "--out", "again.png"]) == 0
        assert (read(Path("again-deviation.png")) == unsure).all()

    def test_files_folders_and_results_of_earlier_runs(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("scans/a.png", "scans/b.tif", "c.jpg"):
            write(Path(name), grey())
        for _ in range(2):
            arguments = ["--blur", "box:3", "--sigma", "5", "--overwrite"]
            assert main(["restore", "scans", "c.jpg", *arguments]) == 0
            assert names() == {
                "scans/a.png",
                "scans/b.tif",
                "c.jpg",
                "scans/a-restored.png",
                "scans/b-restored.tif",
                "c-restored.jpg",
            }
        assert "Done: 3 restored, 0 not." in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("name", "image"),
        [
            ("sixteen.png", grey().astype(np.uint16) * 257),
            ("floats.tif", grey().astype(np.float32) / 255),
            ("clear.png", np.dstack([colour(), grey()])),
        ],
    )
    @pytest.mark.parametrize("option", [["--scale", "2"], ["--blur", "gaussian:1"]])
    def test_bits_and_transparency_are_kept(
        self, name: str, image: np.ndarray, option: list[str]
    ) -> None:
        write(Path(name), image)
        assert main(["restore", name, *option]) == 0
        result = read(Path(name).with_stem(f"{Path(name).stem}-restored"))
        scale = 2 if option[0] == "--scale" else 1
        assert result.dtype == image.dtype
        assert result.shape == (scale * 40, scale * 56, *image.shape[2:])
        if image.ndim == 3 and scale == 1:
            assert (result[..., 3] == image[..., 3]).all()

    def test_noise_is_estimated_for_a_blur(self, capsys: pytest.CaptureFixture[str]) -> None:
        write(Path("photo.png"), noisy(np.full((64, 64), 128, np.uint8), 10))
        assert main(["restore", "photo.png", "--blur", "gaussian:1.6"]) == 0
        found = re.search(r"sigma ([\d.]+) \(estimated\)", capsys.readouterr().out)
        assert found is not None
        assert float(found[1]) == pytest.approx(10, rel=0.15)

    def test_a_jpeg_has_a_noise_floor(self, capsys: pytest.CaptureFixture[str]) -> None:
        flat = Image.fromarray(np.full((64, 64), 128, np.uint8))
        for quality, name in ((60, "low.jpg"), (90, "high.jpg")):
            flat.save(name, quality=quality)
        flat.save("exact.png")
        photographs = ["low.jpg", "high.jpg", "exact.png"]
        assert main(["restore", *photographs, "--blur", "gaussian:1.6"]) == 0
        said = capsys.readouterr().out
        low, high = map(float, re.findall(r"sigma ([\d.]+) \(of the JPEG\)", said))
        assert low > 1.5 * high > 0
        assert "exact.png   sigma 0.0 (estimated)" in said

    def test_known_pixels_and_a_page(self) -> None:
        image, mask = grey(), holes(grey().shape)
        write(Path("photo.jpg"), image)
        write(Path("mask.png"), mask)
        known_pixels = read(Path("photo.jpg"))
        options = ["--mask", "mask.png", "--page", "--no-picture", "--out", "result.png"]
        assert main(["restore", "photo.jpg", *options]) == 0
        assert (read(Path("result.png")) == known_pixels)[mask == 0].all()
        assert Path("result-before-after.html").read_text().count("data:image/png") == 2

    def test_files_that_fail_stop_no_other(self, capsys: pytest.CaptureFixture[str]) -> None:
        write(Path("good.png"), grey())
        write(Path("large.png"), grey(60, 60))
        Path("bad.png").write_text("not an image")
        write(Path("mask.png"), holes(grey().shape))
        photographs = ["bad.png", "large.png", "missing.png", "good.png"]
        assert main(["restore", *photographs, "--mask", "mask.png"]) == 1
        said = capsys.readouterr()
        assert "missing.png: there is no such file" in said.err
        assert "bad.png is not an image" in said.err
        assert "large.png: expected a mask of (60, 60) pixels, as the image" in said.err
        assert "Traceback" not in said.err
        assert said.out.splitlines()[-4:-3] == ["Done: 1 restored, 3 not."]
        assert {name for name in names() if "restored" in name} == {"good-restored.png"}

    def test_a_result_too_large_for_its_format(self, capsys: pytest.CaptureFixture[str]) -> None:
        write(Path("photo.webp"), grey(8, 1_100).repeat(8, 1)[:, :1_100])
        assert main(["restore", "photo.webp", "--scale", "16", "--sigma", "5"]) == 1
        assert "16,383 pixels a side, got 17,600" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["results", "results/*.png"])
    def test_nothing_but_results_is_said_so(
        self, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(Path("results/photo-denoised.png"), grey())
        assert main(["restore", name, "--scale", "2"]) == 1
        assert "only results of ebrl, such as photo-denoised.png" in capsys.readouterr().err
        file = "results/photo-denoised.png"
        assert main(["restore", file, "--scale", "2", "--out", "x.png"]) == 0

    def test_noise_of_too_small_a_photograph(self, capsys: pytest.CaptureFixture[str]) -> None:
        write(Path("photo.png"), grey(6, 6))
        assert main(["restore", "photo.png", "--blur", "gaussian:1.6"]) == 1
        assert "give sigma" in capsys.readouterr().err
        assert main(["restore", "photo.png", "--blur", "gaussian:1.6", "--sigma", "5"]) == 0

    @pytest.mark.parametrize("out", ["photo.png", "./photo.png"])
    def test_no_photograph_is_overwritten(
        self, out: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(Path("photo.png"), grey())
        assert main(["restore", "photo.png", "--scale", "2", "--out", out]) == 1
        assert "would overwrite the photograph photo.png" in capsys.readouterr().err
        assert (read(Path("photo.png")) == grey()).all()

    def test_sigma_in_the_units_of_floats_is_doubted(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(Path("photo.png"), grey())
        assert main(["restore", "photo.png", "--scale", "2", "--sigma", "0.1"]) == 0
        assert "it is 25.5 here" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "one of the arguments --blur --scale --mask is required"),
            (["--blur", "box:3", "--scale", "2"], "not allowed with argument"),
            (["--scale", "1"], "expected a whole number from 2 to 16, got 1"),
            (["--scale", "two"], "expected a whole number from 2 to 16, got two"),
            (["--blur", "gaussian:0"], "expected gaussian:N with a deviation in pixels"),
            (["--blur", "gaussian:wide"], "got gaussian:wide"),
            (["--blur", "box:4"], "an odd number of pixels"),
            (["--blur", "gausian:1.6"], "did you mean gaussian:1.6?"),
            (["--blur", "nowhere.png"], "--blur: there is no image nowhere.png"),
            (["--blur", "nowhere.npy"], "--blur: there is no kernel nowhere.npy"),
            (["--blur", "even.npy"], "odd sides, so that it has a middle, got (2, 3)"),
            (["--blur", "zero.npy"], "a positive sum"),
            (["--blur", "nan.npy"], "expected finite numbers"),
            (["--blur", "objects.npy"], "no array that NumPy reads"),
            (["--mask", "nowhere.png"], "--mask: there is no image nowhere.png"),
            (["--mask", "black.png"], "nothing is white"),
            (["--mask", "white.png"], "everything is white"),
            (["--scale", "2", "--sigma", "256"], "expected a number from 0 to 255, got 256"),
            (["--scale", "2", "--samples", "1"], "expected at least 2"),
        ],
    )
    def test_a_wrong_command_does_nothing(
        self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(Path("photo.png"), grey())
        write(Path("black.png"), np.zeros((40, 56), np.uint8))
        write(Path("white.png"), np.full((40, 56), 255, np.uint8))
        arrays = {"even": np.ones((2, 3)), "zero": np.zeros((3, 3)), "nan": np.full((3, 3), np.nan)}
        for name, values in {**arrays, "objects": np.array([[{}]], dtype=object)}.items():
            np.save(f"{name}.npy", values, allow_pickle=True)
        before = names()
        assert main(["restore", "photo.png", *arguments]) == 2
        said = capsys.readouterr()
        assert message in said.err
        assert len(said.err.splitlines()) == 1
        assert names() == before


# ---- what damages are read from --------------------------------------------------------------


def test_kernels_from_names_and_files() -> None:
    values = np.arange(1.0, 16.0).reshape(3, 5)
    np.save("kernel.npy", values)
    Image.fromarray(values.astype(np.uint8)).save("kernel.png")
    expected = torch.from_numpy(values / values.sum()).float()
    for name in ("kernel.npy", "kernel.png"):
        torch.testing.assert_close(kernel(name), expected)
    torch.testing.assert_close(kernel("box:3"), torch.full((3, 3), 1 / 9))
    line = kernel("gaussian:2").sum(0)
    offsets = torch.arange(len(line)) - len(line) // 2
    assert float((line * offsets**2).sum()) == pytest.approx(4, rel=0.05)


def test_masks_of_any_bits() -> None:
    mask = holes((5, 6))
    for image in (Image.fromarray(mask), Image.fromarray(mask).convert("1")):
        image.save("mask.png")
        assert (known("mask.png").numpy() == (mask == 0)).all()
    with pytest.raises(ImageError, match="not an image"):
        known(write_text("text.png"))


def write_text(name: str) -> Path:
    Path(name).write_text("not an image")
    return Path(name)
