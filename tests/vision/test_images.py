"""Pictures: every kind comes back as it came, and what is none is refused with the cure."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photographs import colour, grey, noisy, write
from PIL import Image
from torch import Tensor

from ebrl.vision.fidelity import fidelity
from ebrl.vision.files import save
from ebrl.vision.grids import in_eight_bits, side_by_side
from ebrl.vision.images import opened, picture
from ebrl.vision.photograph import ImageError, of_pil

CLEAR = np.dstack([colour(), grey()])
GREY_CLEAR = np.dstack([grey(), grey()[::-1]])


def deep(image: np.ndarray) -> np.ndarray:
    """Return the uint8 image in 16 bits, with low bits that 8 would lose."""
    return (
        image.astype(np.uint16) * 257
        + np.arange(image.size, dtype=np.uint16).reshape(image.shape) % 100
    )


def floats(image: np.ndarray, kind: type[np.floating]) -> np.ndarray:
    return (image / 255).astype(kind)


# ---- there and back -------------------------------------------------------------------------

ARRAYS = {
    "grey uint8": grey(),
    "grey uint8 with an axis": grey()[..., None],
    "colour uint8": colour(),
    "colour and alpha uint8": CLEAR,
    "grey and alpha uint8": GREY_CLEAR,
    "grey uint16": deep(grey())[:, :50],
    "colour uint16": np.minimum(deep(colour()), 65_000),
    "colour uint16, swapped bytes": np.minimum(deep(colour()), 65_000).astype(">u2"),
    "grey float16": floats(grey(), np.float16),
    "grey float32": floats(grey(), np.float32),
    "colour float64": floats(colour(), np.float64),
    "float32, swapped bytes": floats(grey(), np.float32).astype(">f4"),
    "colour and alpha float32": floats(CLEAR, np.float32),
    "mirrored": colour()[:, ::-1],
    "every other pixel": colour()[::2, ::2],
    "Fortran's order": np.asfortranarray(colour()),
    "one pixel": grey(1, 1),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back_as_they_came(name: str) -> None:
    image = ARRAYS[name]
    kept = image.copy()
    pixels, white, back, _ = picture(image)
    channels = 1 if image.ndim == 2 else image.shape[2]
    shape = {1: (1,), 2: (2, 1), 3: (3,), 4: (3,)}[channels]  # two channels are two grey images
    assert pixels.dtype == torch.float32
    assert pixels.shape == (*shape, *image.shape[:2])
    planes = pixels.reshape(-1, *image.shape[:2]).movedim(0, -1)
    expected = image.reshape(*image.shape[:2], -1)[..., : planes.shape[-1]] / white
    assert np.allclose(planes.numpy(), expected.astype(np.float32), atol=1e-6)
    result = back(pixels)
    assert result.dtype == image.dtype
    assert result.shape == image.shape
    assert np.allclose(result, image, rtol=0, atol=1e-7 if image.dtype.kind == "f" else 0)
    assert (image == kept).all()


@pytest.mark.parametrize("name", ARRAYS)
def test_what_comes_back_is_what_was_computed(name: str) -> None:
    image = ARRAYS[name]
    pixels, white, back, _ = picture(image)
    planes = back(torch.full_like(pixels, 0.4)).reshape(*image.shape[:2], -1)
    colours = min(planes.shape[-1], 3)
    atol = 0.5 if image.dtype.kind == "u" else 1e-3
    assert np.allclose(planes[..., :colours].astype(float), 0.4 * white, rtol=0, atol=atol)
    original = image.reshape(*image.shape[:2], -1)
    assert (planes[..., colours:] == original[..., colours:]).all()  # transparency


def test_results_beyond_white_and_black_are_cut_there() -> None:
    pixels, _, back, _ = picture(colour())
    assert (back(pixels + 2) == 255).all()
    assert (back(pixels - 2) == 0).all()


@pytest.mark.parametrize(
    ("dtype", "white"), [(torch.uint8, 256), (torch.uint16, 65536), (torch.int32, 2**31 - 1)]
)
def test_white_of_integers_never_wraps(dtype: torch.dtype, white: int) -> None:
    image = torch.full((1, 2, 2), torch.iinfo(dtype).max, dtype=dtype)
    back = picture(image, (0, white)).back(torch.ones(1, 2, 2))
    assert torch.equal(back, image)


def test_a_read_only_array_is_read_without_a_warning() -> None:
    image = grey().copy()
    image.flags.writeable = False
    pixels, _, back, _ = picture(image)
    assert (back(pixels) == image).all()


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.bfloat16, torch.float64])
def test_tensors_come_back_with_their_batch(
    batch: tuple[int, ...], channels: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (*batch, channels, 5, 7), generator=generator)
    image = (levels if not dtype.is_floating_point else levels / 256).to(dtype)
    pixels, _, back, _ = picture(image)
    shape = {1: (1,), 2: (2, 1), 3: (3,), 4: (3,)}[channels]
    assert pixels.shape == (*batch, *shape, 5, 7)
    assert back(pixels).dtype == dtype
    assert back(pixels).equal(image)


def test_a_tensor_without_channels_is_grey() -> None:
    image = torch.from_numpy(grey().copy())
    pixels, white, back, _ = picture(image)
    assert (pixels.shape, white) == ((1, 40, 56), 255)
    assert back(pixels).equal(image)


def test_no_gradient_leaves_with_a_tensor() -> None:
    pixels, _, back, _ = picture(torch.rand(1, 4, 4, requires_grad=True))
    assert not back(pixels).requires_grad


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16", "F"])
def test_pil_images_of_every_mode_come_back(mode: str) -> None:
    image = {
        "I;16": Image.fromarray(deep(grey())[:, :50]),
        "F": Image.fromarray(floats(grey(), np.float32)),
    }.get(mode) or Image.fromarray(CLEAR).convert(mode)
    image.info = {"icc_profile": b"profile", "exif": b"Exif\0\0", "dpi": (72, 72), "gamma": 1}
    pixels, white, back, _ = picture(image)
    result = back(pixels)
    assert (result.mode, result.size) == (mode, image.size)
    assert np.array_equal(np.asarray(result), np.asarray(image))
    assert white == {"I;16": 65_535, "F": 1}.get(mode, 255)
    assert result.info == {key: image.info[key] for key in ("icc_profile", "exif", "dpi")}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_file_stands_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    Image.fromarray(colour()).save(path, exif=exif)
    pixels, _, back, _ = picture(str(path))
    turned = {
        1: colour(),
        2: colour()[:, ::-1],
        3: colour()[::-1, ::-1],
        4: colour()[::-1],
        5: colour().swapaxes(0, 1),
        6: np.rot90(colour(), -1),
        7: np.rot90(colour(), 2).swapaxes(0, 1),
        8: np.rot90(colour()),
    }
    result = back(pixels)
    assert (np.asarray(result) == turned[orientation]).all()
    assert result.getexif().get(0x0112, 1) == 1


def test_a_photograph_with_its_preview_is_one_photograph(tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    preview = Image.fromarray(colour(8, 8))
    Image.fromarray(colour()).save(path, format="MPO", save_all=True, append_images=[preview])
    assert opened(path).size == (56, 40)


# ---- what is none ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "got builtins.NoneType"),
        ([[0, 1]], "got builtins.list"),
        (np.zeros(5, np.uint8), "got shape (5,)"),
        (np.zeros((2, 3, 4, 3), np.uint8), "got shape (2, 3, 4, 3)"),
        (np.zeros((4, 4, 5), np.uint8), "got shape (4, 4, 5)"),
        (np.zeros((0, 4), np.uint8), "not empty"),
        (np.zeros((4, 0, 3), np.uint8), "not empty"),
        (np.zeros((4, 4), bool), "1-bit images"),
        (np.zeros((4, 4), np.int64), "got torch.int64"),
        (np.zeros((4, 4), np.uint32), "uint32"),
        (np.zeros((4, 4), complex), "complex"),
        (np.zeros((4, 4), object), "object"),
        (np.array([["a", "b"]]), "<U1"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.full((4, 4), np.inf, np.float32), "infinity"),
        (np.full((4, 4), 128.0), "divide by 255"),
        (torch.full((1, 4, 4), -3.0), "[-3, -3]"),
        (torch.zeros(5, 4, 4), "got shape (5, 4, 4)"),
        (torch.zeros(4), "got shape (4,)"),
        (torch.zeros(0, 1, 4, 4), "not empty"),
        (torch.zeros(1, 4, 4, dtype=torch.int32), "got torch.int32"),
        (torch.zeros(1, 4, 4, dtype=torch.complex64), "complex64"),
        (Image.new("1", (4, 4)), "image.convert('L')"),
        (Image.new("P", (4, 4)), "image.convert('RGB')"),
        (Image.new("CMYK", (4, 4)), "image.convert('RGB')"),
        (Image.new("I", (4, 4)), "image.convert('I;16')"),
        (Image.new("L", (0, 4)), "not empty"),
    ],
)
def test_what_is_no_picture_is_refused(image: Any, message: str) -> None:
    with pytest.raises(ImageError) as error:
        picture(image)
    assert message in str(error.value)


@pytest.mark.parametrize("data_range", [255, (0, np.inf), (np.nan, 1), (1, 1), (0, 1, 2)])
def test_a_range_is_two_finite_numbers_that_rise(data_range: Any) -> None:
    with pytest.raises(ImageError, match=r"expected data_range \(black, white\), two numbers"):
        picture(grey(), data_range)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no image"):
        picture(tmp_path / "none.png")


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        picture(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp"])
def test_a_file_cut_anywhere_is_refused(suffix: str, tmp_path: Path) -> None:
    whole = write(tmp_path / f"whole{suffix}", noisy(colour(16, 16))).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    for length in [0, 1, *range(2, len(whole) - 100, max(len(whole) // 40, 1))]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ImageError, match=r"is not an image|damaged"):
            opened(cut)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp"])
def test_a_file_with_wrong_bytes_is_read_or_refused(suffix: str, tmp_path: Path) -> None:
    whole = write(tmp_path / f"whole{suffix}", noisy(colour(16, 16))).read_bytes()
    broken = tmp_path / f"broken{suffix}"
    random = np.random.RandomState(0)
    for _ in range(60):
        content = bytearray(whole)
        for place in random.randint(0, min(len(whole), 300), 5):
            content[place] = random.randint(256)
        broken.write_bytes(content)
        try:
            assert min(opened(broken).size) > 0
        except ImageError as error:
            assert str(broken) in str(error)  # noqa: PT017 (or it is read)


# ---- into files -----------------------------------------------------------------------------


def test_saving_keeps_what_was_there_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "photo.png", grey())
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        save(Image.fromarray(colour()), path)
    assert error.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["photo", "photo.gif", "photo.doc"])
def test_a_suffix_that_is_not_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="expected a file that ends in"):
        save(Image.fromarray(grey()), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("image", "suffix"),
    [
        (CLEAR, ".jpg"),
        (deep(grey()), ".jpg"),
        (GREY_CLEAR, ".bmp"),
        (floats(grey(), np.float32), ".png"),
    ],
)
def test_a_format_that_cannot_hold_the_image(
    image: np.ndarray, suffix: str, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=r"write a \.tif"):
        save(Image.fromarray(image), tmp_path / f"photo{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_an_array_is_saved_as_an_image(tmp_path: Path) -> None:
    array: Any = grey()
    with pytest.raises(TypeError, match=r"got a ndarray: PIL\.Image\.fromarray\(array\)"):
        save(array, tmp_path / "photo.png")


@pytest.mark.parametrize(("suffix", "most"), [(".webp", 16_383), (".jpg", 65_500)])
def test_a_format_that_cannot_hold_the_side(suffix: str, most: int, tmp_path: Path) -> None:
    save(Image.new("L", (most, 8)), tmp_path / f"longest{suffix}")
    for size in ((most + 1, 8), (8, most + 1)):
        with pytest.raises(ImageError, match=f"at most {most:,} pixels a side, got {most + 1:,}"):
            save(Image.new("L", size), tmp_path / f"photo{suffix}")


def test_side_by_side_of_every_depth() -> None:
    photographs = [of_pil(Image.fromarray(image)) for image in (grey(), deep(grey()), CLEAR)]
    shown = side_by_side([in_eight_bits(photograph) for photograph in photographs]).pixels
    assert shown.shape == (40, 3 * 56 + 2 * 8, 3)
    assert (shown[:, :56] == grey()[..., None]).all()
    assert (shown[:, -56:] == colour()).all()


# ---- figures --------------------------------------------------------------------------------


def pixels_of(image: np.ndarray) -> Tensor:
    return picture(image).pixels


def test_psnr_in_closed_form() -> None:
    pixels = pixels_of(grey()) * 0.5
    assert fidelity(pixels + 0.1, pixels).psnr == pytest.approx(20, abs=1e-4)


def test_equal_images() -> None:
    assert fidelity(pixels_of(colour()), pixels_of(colour())) == (float("inf"), 1.0)


def test_an_image_smaller_than_the_window_has_no_ssim() -> None:
    assert fidelity(pixels_of(grey(6, 9)), pixels_of(grey(6, 9)) * 0.9).ssim is None


def test_figures_of_different_shapes_are_refused() -> None:
    with pytest.raises(ImageError, match=r"\(1, 40, 56\), got \(3, 40, 56\)"):
        fidelity(pixels_of(grey()), pixels_of(colour()))
