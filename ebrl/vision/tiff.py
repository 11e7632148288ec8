"""TIFF of every kind, by `tifffile`: separate planes, 16 bits, floats, stacks, tags and all.

Pixels are returned as `(*pages, height, width, channels)`, upright and with black at 0. Thumbnails
and smaller copies in the file are left out.
"""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, TiffImagePlugin

from ebrl.vision.photograph import About, ImageError, Photograph, to_rgb

MAGIC = {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}  # classic and big, of either byte order
TEXTS = (269, 271, 272, 285, 306, 315, 316, 33432)  # document, maker, model, date, artist, …
BLOCKS = (700, 33723, 50838, 50839)  # XMP, IPTC, ImageJ's
DESCRIPTION, SOFTWARE, ORIENTATION, PROFILE, EXIF, GPS = 270, 305, 274, 34675, 34665, 34853
RESOLUTION, UNIT, EXTRA = (282, 283), 296, 338
CENTIMETRES = 2.54
BROKEN = (tifffile.TiffFileError, zlib.error, RuntimeError, IndexError, AttributeError)


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins with these four bytes is a TIFF."""
    return head in MAGIC


def load(path: Path) -> Photograph:
    """Return the photograph of a TIFF file; errors are those of `files.load`."""
    try:
        with _silenced(), tifffile.TiffFile(path) as file:
            series = _only_series(file, path)
            page = series.keyframe
            _check_whole(file, series, path)
            pixels = _samples_last(series.asarray(), series.axes, page, path)
            if pixels.size == 0:
                raise ImageError(f"{path} holds no pixels: its image is {pixels.shape}")
            pixels, note = _plain(pixels, page, path)
            return Photograph(
                upright(pixels, _value(page, ORIENTATION, 1)), _about(file, page, note)
            )
    except BROKEN as error:
        raise ImageError(f"{path} is a damaged image ({error}): use another copy") from error


def encoded(photograph: Photograph) -> bytes:
    """Return a TIFF file of the photograph, without loss, with its tags.

    It is compressed unless its numbers are packed, such as to 12 bits.
    """
    pixels, about = photograph.pixels, photograph.about
    packed = about.bits if pixels.dtype == np.uint16 and pixels.max() < 2**about.bits else 0
    channels = pixels.shape[-1]
    exif = Image.Exif()
    exif.load(about.exif or b"Exif\0\0")
    tags = {code: str(exif[code]).encode() for code in TEXTS if code in exif} | dict(about.tags)
    resolution, unit = about.dpi, 2
    if RESOLUTION[0] in tags and RESOLUTION[1] in tags:
        resolution, unit = tuple(tags[code] for code in RESOLUTION), int(tags.get(UNIT, 2))
    directories = {code: found for code in (EXIF, GPS) if (found := exif.get_ifd(code))}
    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        pixels if channels > 1 else pixels[..., 0],
        photometric="rgb" if channels > 2 else "minisblack",
        extrasamples=tags.get(EXTRA, ["unassalpha"]) if channels in (2, 4) else None,
        planarconfig="contig" if channels > 1 else None,
        compression=None if packed else "zlib",
        predictor=True if pixels.dtype.kind == "u" and not packed else None,
        bitspersample=packed or None,
        metadata=None,
        byteorder="<",
        description=tags.get(DESCRIPTION),
        software=tags.get(SOFTWARE, ""),
        resolution=resolution,
        resolutionunit=unit if resolution else None,
        iccprofile=about.profile or None,
        extratags=[
            *((code, "s", 0, tags[code], True) for code in TEXTS if code in tags),
            *(tags[code] for code in BLOCKS if code in tags),
        ],
    )
    return _with_directories(stream.getvalue(), directories)


def _only_series(file: tifffile.TiffFile, path: Path) -> tifffile.TiffPageSeries:
    """Return the one image, or stack of images, of a file."""
    whole = [series for series in file.series if not series.keyframe.is_reduced]
    largest = max(whole or file.series, key=lambda series: series.keyframe.size)
    others = [s for s in whole if s is not largest and s.keyframe.size * 4 > largest.keyframe.size]
    if others:  # no thumbnails
        raise ImageError(
            f"{path} holds {len(whole)} images of different kinds: save each in a file of its own"
        )
    return largest


def _check_whole(file: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path) -> None:
    """Refuse a file that ends before its pixels do, which `tifffile` would read as black."""
    end = file.filehandle.size
    for page in series.pages:
        frame = page or series.keyframe
        if any(o + n > end for o, n in zip(frame.dataoffsets, frame.databytecounts, strict=True)):
            raise ImageError(f"{path} is a damaged image (it ends too early): use another copy")


def _samples_last(pixels: np.ndarray, axes: str, page: tifffile.TiffPage, path: Path) -> np.ndarray:
    """Return `(*pages, height, width, channels)` of an array with axes such as 'SYX' or 'ZYX'."""
    if "S" in axes:
        place = axes.index("S")
        pixels, axes = np.moveaxis(pixels, place, -1), axes.replace("S", "")
    else:
        pixels = pixels[..., None]
    if not axes.endswith("YX"):
        raise ImageError(f"{path} holds axes {axes}: save its images one by one")
    if pixels.shape[-1] > 4 or (pixels.shape[-1] == 2 and not page.extrasamples):
        raise ImageError(
            f"{path} has {pixels.shape[-1]} channels: save each in a file, or as pages"
        )
    return pixels


def _plain(pixels: np.ndarray, page: tifffile.TiffPage, path: Path) -> tuple[np.ndarray, str]:
    """Return grey or RGB with black at 0, and a note of what that changes."""
    photometric, kind = int(page.photometric), pixels.dtype
    bits = 1 if kind.kind == "b" else page.bitspersample
    if bits < 8 and photometric in (0, 1):
        levels = (np.minimum(pixels, 2**bits - 1) * (255 // (2**bits - 1))).astype(np.uint8)
        grey = levels[..., :1] if photometric == 1 else 255 - levels[..., :1]
        levels = np.concatenate([grey, levels[..., 1:]], -1)  # a second channel is alpha
        return levels, f"{bits} bit{'s' * (bits > 1)} per pixel became 8"
    if photometric in (0, 1) and pixels.shape[-1] > 2:
        raise ImageError(f"{path} has {pixels.shape[-1]} channels that are no colours: save pages")
    if photometric == 0 and kind.kind == "u":
        pixels = pixels.copy()
        pixels[..., 0] = 2**page.bitspersample - 1 - pixels[..., 0]  # a second channel is alpha
        return pixels, "white is zero became black is zero"
    if photometric == 3:
        colours = np.moveaxis(np.asarray(page.colormap) >> 8, 0, -1).astype(np.uint8)
        return colours[pixels[..., 0]], "its palette became RGB"
    if photometric == 5 and kind == np.uint8 and pixels.ndim == 3:
        inks = Image.frombytes("CMYK", pixels.shape[1::-1], pixels.tobytes())
        inks.info["icc_profile"] = _bytes(page, PROFILE)
        seen, note = to_rgb(inks)
        return np.asarray(seen), note
    if photometric in (1, 2) or (photometric == 6 and page.compression in (6, 7)):
        return pixels, ""  # JPEG in TIFF is decoded to RGB
    raise ImageError(f"{path} has colours of kind {page.photometric!r}: save it as RGB")


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror pixels `(*pages, height, width, channels)` as the tag says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(-3, -2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[..., ::-1, :, :]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[..., ::-1, :]
    return pixels


def _about(file: tifffile.TiffFile, page: tifffile.TiffPage, note: str) -> About:
    tags: dict[int, Any] = {}
    for code in (*TEXTS, DESCRIPTION, SOFTWARE):
        if code in page.tags:
            tags[code] = str(page.tags[code].value).encode()
    for code in (*RESOLUTION, UNIT, EXTRA):
        if code in page.tags:
            tags[code] = page.tags[code].value
    for code in BLOCKS:
        if code in page.tags:
            tag = page.tags[code]
            tags[code] = (code, int(tag.dtype), tag.count, tag.value, True)
    profile = b"" if note.startswith("CMYK") else _bytes(page, PROFILE)
    bits = page.bitspersample if 8 < page.bitspersample < 16 else 0
    return About(_exif(file, page), profile, _dpi(page), tuple(tags.items()), bits=bits, note=note)


def _exif(file: tifffile.TiffFile, page: tifffile.TiffPage) -> bytes:
    """Return the camera's directories as a JPEG holds them, with maker and model."""
    if EXIF not in page.tags and GPS not in page.tags:
        return b""
    file.filehandle.seek(0)
    if file.is_bigtiff:  # which Pillow does not parse
        return b""
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + file.filehandle.read())
    kept = Image.Exif()
    for code in TEXTS:
        if code in exif:
            kept[code] = exif[code]
    for code in (EXIF, GPS):
        if code in page.tags:
            kept.get_ifd(code).update(exif.get_ifd(code))
    return kept.tobytes()


def _with_directories(encoded: bytes, directories: dict[int, dict[int, Any]]) -> bytes:
    """Return a little-endian TIFF file with more directories, which its first page points to.

    `tifffile` writes no EXIF: the page's table of tags is written once more behind the image, with
    an entry for each directory. Offsets in a TIFF are absolute, so that all else stays valid.
    """
    if not directories:
        return encoded
    stream = io.BytesIO(encoded)
    end = stream.seek(0, io.SEEK_END)
    (first,) = struct.unpack_from("<I", encoded, 4)
    (count,) = struct.unpack_from("<H", encoded, first)
    entries = [encoded[first + 2 + 12 * i :][:12] for i in range(count)]
    following = encoded[first + 2 + 12 * count :][:4]
    for code, values in directories.items():
        place = stream.seek(end + end % 2)
        directory = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\0\0\0\0")
        for key, value in values.items():
            if not isinstance(value, dict):
                directory[key] = value
        stream.write(directory.tobytes(place))
        end = stream.tell()
        entries.append(struct.pack("<HHII", code, 4, 1, place))
    place = stream.seek(end + end % 2)
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry))
    stream.write(struct.pack("<H", len(entries)) + b"".join(entries) + following)
    stream.seek(4)
    stream.write(struct.pack("<I", place))
    return stream.getvalue()


def _dpi(page: tifffile.TiffPage) -> tuple[float, float] | None:
    """Return the resolution in pixels an inch, where the file says it in a unit of length."""
    values = [_value(page, code, None) for code in RESOLUTION]
    unit = int(_value(page, UNIT, 2))
    if None in values or unit not in (2, 3) or any(0 in value for value in values):
        return None
    factor = CENTIMETRES if unit == 3 else 1.0
    x, y = (factor * above / below for above, below in values)
    return x, y


def _value(page: tifffile.TiffPage, code: int, default: Any) -> Any:
    tag = page.tags.get(code)
    return default if tag is None else tag.value


def _bytes(page: tifffile.TiffPage, code: int) -> bytes:
    return bytes(_value(page, code, b""))


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep the library from logging what is raised or does not matter to the pixels."""
    logger = logging.getLogger("tifffile")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
