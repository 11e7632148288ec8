"""Files of every kind: read right or refused, and written with what they said about themselves."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from photographs import colour, grey
from PIL import Image, ImageCms, PngImagePlugin

from ebrl.vision.damages import enlarged
from ebrl.vision.files import load, save
from ebrl.vision.images import opened, picture
from ebrl.vision.photograph import About, ImageError, Photograph

DEEP = (
    colour().astype(np.uint16) * 257
    + np.arange(40 * 56 * 3, dtype=np.uint16).reshape(40, 56, 3) % 50
)
STACK = np.stack([np.roll(grey(), n, 0) for n in range(3)])


def test_what_is_saved_is_what_was_loaded(tmp_path: Path) -> None:
    for name, pixels in {
        "grey.png": grey()[..., None],
        "clear.png": np.dstack([colour(), grey()]),
        "deep.png": DEEP,
        "deep-clear.png": np.dstack([DEEP, DEEP[..., 0]]),
        "deep-grey.png": DEEP[..., :1],
        "deep.tif": DEEP,
        "deep-clear.tif": np.dstack([DEEP, DEEP[..., 0]]),
        "grey-clear.tif": np.dstack([grey(), grey()]),
        "floats.tif": (colour() / 255).astype(np.float32),
        "stack.tif": STACK[..., None],
        "colours.tif": np.stack([DEEP, DEEP[::-1]]),
    }.items():
        save(Photograph(pixels), tmp_path / name)
        loaded = load(tmp_path / name).pixels
        assert loaded.dtype == pixels.dtype, name
        assert np.array_equal(loaded, pixels), name


@pytest.mark.parametrize("how", ["separate", "contig"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_tiff_of_16_bit_colour(how: Any, compression: str | None, tmp_path: Path) -> None:
    planes = np.moveaxis(DEEP, -1, 0) if how == "separate" else DEEP
    tifffile.imwrite(
        tmp_path / "x.tif", planes, photometric="rgb", planarconfig=how, compression=compression
    )
    assert np.array_equal(load(tmp_path / "x.tif").pixels, DEEP)
    with pytest.raises(ImageError, match=r"vision\.load"):
        opened(tmp_path / "x.tif")


def test_white_is_zero_becomes_black_is_zero(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", 65_535 - DEEP[..., 0], photometric="miniswhite")
    photograph = load(tmp_path / "x.tif")
    assert np.array_equal(photograph.pixels[..., 0], DEEP[..., 0])
    assert "white is zero" in photograph.about.note


def test_transparency_of_a_tiff_whose_white_is_zero(tmp_path: Path) -> None:
    alpha = np.full_like(grey(), 255)
    tifffile.imwrite(
        tmp_path / "x.tif",
        np.dstack([255 - grey(), alpha]),
        photometric="miniswhite",
        planarconfig="contig",
        extrasamples=["unassalpha"],
    )
    assert np.array_equal(load(tmp_path / "x.tif").pixels, np.dstack([grey(), alpha]))


def test_palettes_and_gif_are_rgb(tmp_path: Path) -> None:
    palette = Image.fromarray(colour()).quantize(32)
    for name in ("x.png", "x.gif", "x.tif"):
        palette.save(tmp_path / name)
        assert np.array_equal(load(tmp_path / name).pixels, np.asarray(palette.convert("RGB")))
    palette.info["transparency"] = 0
    palette.save(tmp_path / "clear.png")
    assert load(tmp_path / "clear.png").pixels.shape == (40, 56, 4)


def test_inks_become_rgb_without_their_profile(tmp_path: Path) -> None:
    inks = Image.fromarray(colour()).convert("CMYK")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, more in (("x.jpg", {"quality": 100}), ("x.tif", {})):
        inks.save(tmp_path / name, **more)
        photograph = load(tmp_path / name)
        assert np.abs(photograph.pixels.astype(int) - colour()).mean() < 2
        assert "CMYK" in photograph.about.note
    for name in ("wrong.jpg", "wrong.tif"):  # a profile that is not of inks
        inks.save(tmp_path / name, icc_profile=profile)
        photograph = load(tmp_path / name)
        assert photograph.pixels.shape == (40, 56, 3)
        assert "without its profile" in photograph.about.note
    palette = Image.fromarray(colour()).quantize(32)
    palette.save(tmp_path / "p.png", icc_profile=profile)
    assert load(tmp_path / "p.png").about.profile == profile


def test_a_bit_a_pixel_becomes_eight(tmp_path: Path) -> None:
    bits = Image.fromarray(grey()).convert("1")
    for name in ("x.png", "x.tif"):
        bits.save(tmp_path / name)
        assert np.array_equal(
            load(tmp_path / name).pixels[..., 0], np.asarray(bits) * np.uint8(255)
        )


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_four_bits_a_pixel_become_eight(photometric: str, tmp_path: Path) -> None:
    levels = np.arange(16, dtype=np.uint8).repeat(4).reshape(8, 8)
    tifffile.imwrite(tmp_path / "x.tif", levels, bitspersample=4, photometric=photometric)
    expected = levels * 17 if photometric == "minisblack" else 255 - levels * 17
    assert np.array_equal(load(tmp_path / "x.tif").pixels[..., 0], expected)


def test_twelve_bits_are_those_of_the_file_and_no_guess(tmp_path: Path) -> None:
    dark = grey().astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", dark, bitspersample=12, photometric="minisblack")
    photograph = load(tmp_path / "x.tif")
    assert np.array_equal(photograph.pixels[..., 0], dark)
    assert picture(photograph).white == 4095


@pytest.mark.parametrize("shape", [(40, 57), (3, 40, 57), (40, 57, 3), (40, 57, 4)])
def test_twelve_bits_are_written_as_twelve(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = np.random.RandomState(0).randint(0, 4096, shape).astype(np.uint16)
    channels = pixels if shape[-1] < 5 else pixels[..., None]
    about = About(bits=12)
    save(Photograph(channels, about), tmp_path / "x.tif")
    photograph = load(tmp_path / "x.tif")
    assert photograph.about.bits == 12
    assert np.array_equal(photograph.pixels, channels)
    save(Photograph(channels * 16, about), tmp_path / "x.tif")  # more than twelve bits hold
    assert np.array_equal(load(tmp_path / "x.tif").pixels, channels * 16)


@pytest.mark.parametrize("metadata", ["ome", "tifffile"])
def test_an_enlarged_stack_is_described_no_longer(metadata: str, tmp_path: Path) -> None:
    path = tmp_path / ("x.ome.tif" if metadata == "ome" else "x.tif")
    tifffile.imwrite(path, STACK, photometric="minisblack", metadata={"axes": "ZYX"})
    save(enlarged(load(path), 2), tmp_path / "y.tif")
    with tifffile.TiffFile(tmp_path / "y.tif") as file:
        assert file.asarray().shape == (3, 80, 112)
        assert 270 not in file.pages[0].tags


def test_a_clear_colour_is_transparency(tmp_path: Path) -> None:
    for pixels, clear in ((grey(), int(grey()[0, 0])), (colour(), tuple(colour()[0, 0].tolist()))):
        Image.fromarray(pixels).save(tmp_path / "x.png", transparency=clear)
        alpha = load(tmp_path / "x.png").pixels[..., -1]
        expected = (pixels.reshape(*pixels.shape[:2], -1) == clear).all(-1)
        assert np.array_equal(alpha == 0, expected)


@pytest.mark.parametrize("bits", [1, 16])
def test_a_clear_level_of_grey_is_transparency_at_any_depth(bits: int, tmp_path: Path) -> None:
    levels = np.array([[0, 1, 1], [1, 0, 0]]) if bits == 1 else np.arange(6).reshape(2, 3) * 11_000
    rows = [b"\0" + (np.packbits(r) if bits == 1 else r.astype(">u2")).tobytes() for r in levels]
    with (tmp_path / "x.png").open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, data in {
            b"IHDR": struct.pack(">IIBBBBB", 3, 2, bits, 0, 0, 0, 0),
            b"tRNS": struct.pack(">H", levels[0, 1]),
            b"IDAT": zlib.compress(b"".join(rows)),
            b"IEND": b"",
        }.items():
            PngImagePlugin.putchunk(file, name, data)
    photograph = load(tmp_path / "x.png")
    grey, alpha = np.moveaxis(photograph.pixels, -1, 0)
    assert np.array_equal(grey, levels * 255 if bits == 1 else levels)
    assert np.array_equal(alpha, np.where(levels == levels[0, 1], 0, 255 if bits == 1 else 65_535))
    assert photograph.about.note == "its clear colour became transparency"


def test_what_pillow_would_cut_to_eight_bits_is_refused(tmp_path: Path) -> None:
    height, width = DEEP.shape[:2]
    (tmp_path / "x.ppm").write_bytes(
        b"P6 %d %d 65535\n" % (width, height) + DEEP.astype(">u2").tobytes()
    )
    (tmp_path / "x.jp2").write_bytes(imagecodecs.jpeg2k_encode(DEEP))
    for name in ("x.ppm", "x.jp2"):
        with pytest.raises(ImageError, match="16 bits a channel, of which Pillow reads 8"):
            load(tmp_path / name)
    Image.fromarray(colour()).save(tmp_path / "plain.jp2")
    assert load(tmp_path / "plain.jp2").pixels.dtype == np.uint8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_colour_stands_upright_as_eight_bits_do(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    save(Photograph(DEEP, About(exif.tobytes())), tmp_path / "deep.png")
    Image.fromarray((DEEP // 257).astype(np.uint8)).save(tmp_path / "plain.png", exif=exif)
    assert np.array_equal(
        load(tmp_path / "deep.png").pixels // 257, load(tmp_path / "plain.png").pixels
    )


def test_damaged_exif_data_are_left_out(tmp_path: Path) -> None:
    Image.fromarray(colour()).save(tmp_path / "x.jpg", exif=b"Exif\0\0no directories")
    photograph = load(tmp_path / "x.jpg")
    assert "damaged EXIF" in photograph.about.note
    save(photograph, tmp_path / "x.tif")
    assert load(tmp_path / "x.tif").pixels.shape == colour().shape


def test_thumbnails_are_left_out_and_other_images_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(grey(), photometric="minisblack")
        file.write(grey()[::4, ::4], photometric="minisblack", subfiletype=1)
    assert np.array_equal(load(tmp_path / "x.tif").pixels[..., 0], grey())
    with tifffile.TiffWriter(tmp_path / "y.tif") as file:
        file.write(grey(), photometric="minisblack")
        file.write(colour(), photometric="rgb")
    with pytest.raises(ImageError, match="2 images of different kinds"):
        load(tmp_path / "y.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_stands_upright_as_other_files_do(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(colour()).save(tmp_path / "x.png", exif=exif)
    tifffile.imwrite(
        tmp_path / "x.tif",
        colour(),
        photometric="rgb",
        extratags=[(274, "H", 1, orientation, True)],
    )
    expected = load(tmp_path / "x.png").pixels
    assert np.array_equal(load(tmp_path / "x.tif").pixels, expected)
    save(load(tmp_path / "x.tif"), tmp_path / "y.tif")
    assert np.array_equal(load(tmp_path / "y.tif").pixels, expected)


@pytest.mark.parametrize("pixels", [colour(), DEEP])
@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg"])
def test_what_a_camera_wrote_stays(pixels: np.ndarray, suffix: str, tmp_path: Path) -> None:
    if suffix == ".jpg" and pixels is DEEP:
        pytest.skip("JPEG has 8 bits")
    exif = Image.Exif()
    exif[0x010F], exif[0x013B] = "a maker", "an artist"
    exif.get_ifd(0x8769)[0x8827] = 3200
    Image.fromarray(colour()).save(tmp_path / "camera.jpg", exif=exif, dpi=(240, 240))
    about = load(tmp_path / "camera.jpg").about
    for name in (f"x{suffix}", f"again{suffix}"):
        save(Photograph(pixels, about), tmp_path / name)
        about = load(tmp_path / name).about
        if pixels is colour():
            found = Image.open(tmp_path / name).getexif()
        else:
            found = Image.Exif()
            found.load(about.exif)
        assert (found[0x010F], found[0x013B]) == ("a maker", "an artist")
        assert found.get_ifd(0x8769)[0x8827] == 3200
        assert about.dpi == pytest.approx((240, 240), abs=0.1)


def test_pixel_size_and_description_of_a_microscope_stay(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "x.tif",
        STACK.astype(np.uint16) * 16,
        imagej=True,
        resolution=(9.23, 9.23),
        metadata={"unit": "um", "axes": "ZYX", "spacing": 0.5},
    )
    save(load(tmp_path / "x.tif"), tmp_path / "y.tif")
    with (
        tifffile.TiffFile(tmp_path / "x.tif") as before,
        tifffile.TiffFile(tmp_path / "y.tif") as after,
    ):
        assert after.imagej_metadata == before.imagej_metadata
        for code in (270, 282, 283, 296):
            assert after.pages[0].tags[code].value == before.pages[0].tags[code].value
        assert after.asarray().shape == before.asarray().shape == (3, 40, 56)


def test_the_rounding_of_a_jpeg_is_about_its_error(tmp_path: Path) -> None:
    for quality in (30, 60, 80, 95):
        Image.fromarray(grey(200, 200)).save(tmp_path / "x.jpg", quality=quality)
        photograph = load(tmp_path / "x.jpg")
        error = (photograph.pixels[..., 0].astype(float) - grey(200, 200)).std() / 255
        assert 0.6 < photograph.about.rounding / error < 1.6
    Image.fromarray(grey()).save(tmp_path / "x.png")
    assert load(tmp_path / "x.png").about.rounding == 0
