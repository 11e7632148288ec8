"""Photographs from files and into files, with what the file says about them.

    photograph = load("scan.tif")
    save(vision.denoise(photograph), "clean.tif")

Pillow reads and writes 8 bits and 16-bit grey, `tifffile` TIFF of every kind (`ebrl.vision.tiff`),
`imagecodecs` PNG with 16-bit colour. A file is written whole or not at all.
"""

from __future__ import annotations

import io
import math
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

from ebrl.storage import replacing
from ebrl.vision import tiff
from ebrl.vision.photograph import MODES, ImageError, Photograph, kept, like, of_pil, to_pil, to_rgb

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}  # written
READ_ONLY = {".gif", ".jp2", ".avif", ".ppm", ".pgm", ".tga"}  # read besides; results are PNG
OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
}
# Channels that a format holds, by the bits of a number; TIFF holds all.
HELD: dict[str, dict[int, tuple[int, ...]]] = {
    "JPEG": {8: (1, 3)},
    "BMP": {8: (1, 3, 4)},
    "WEBP": {8: (1, 3, 4)},
    "PNG": {8: (1, 2, 3, 4), 16: (1, 2, 3, 4)},
}
SIDES = {"JPEG": 65_500, "WEBP": 16_383}  # most pixels that a format holds
CLEARED = "its clear colour became transparency"
DEEP = re.compile(";16[BLN]")  # Pillow's name of raw data with 16 bits a channel
SIZES, BITS_PLACE = b"\xff\x4f\xff\x51", 42  # the head of JPEG 2000's code, and a depth's place
DAMAGE = (OSError, SyntaxError, ValueError, KeyError, TypeError, EOFError, struct.error)
POWER = 1300.0  # of a photograph's coefficients of frequency 1 in a block, of 255² (measured)


def load(path: str | Path) -> Photograph:
    """Return the image of a file, upright, in its own bits.

    Palettes, GIF and CMYK become RGB; white-is-zero grey becomes black-is-zero. The pages of a TIFF
    stack are the leading axis.

    Raises:
        ImageError: For a file that is damaged, too large or no image, or that holds several images
            that are no stack.
        FileNotFoundError: For a missing file.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(4)
        if tiff.is_tiff(head):
            return tiff.load(path)
        with _without_pillows_warnings(), Image.open(path) as image:
            return _read(image, path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no image {path}") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is not an image, or of a format that Pillow lacks") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large ({error}): cut it into parts") from error
    except NotImplementedError as error:
        raise ImageError(f"{path} is of a kind that Pillow lacks ({error})") from error
    except ImageError:
        raise
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ImageError(f"{path} cannot be read ({error.strerror})") from error
        raise ImageError(f"{path} is a damaged image ({error}): use another copy") from error


def save(image: Photograph | Image.Image, path: str | Path) -> None:
    """Write an image in the format of the path's suffix, with EXIF, profile and resolution.

    JPEG and WebP are written at quality 95.

    Raises:
        TypeError: For something else, such as an array.
        ImageError: For a suffix that is not written, or a format that cannot hold the image.
        OSError: When the file cannot be written; what was there before is then unchanged.
    """
    path = Path(path)
    photograph = of_pil(image) if isinstance(image, Image.Image) else image
    if not isinstance(photograph, Photograph):
        raise TypeError(
            f"expected a photograph or a PIL image to save, got a {type(image).__name__}: "
            "PIL.Image.fromarray(array)"
        )
    check_holds(photograph, path)
    style = file_format(path)
    if style == "TIFF":
        encoded = tiff.encoded(photograph)
    elif style == "PNG" and photograph.pixels.dtype.itemsize == 2 and _channels(photograph) > 1:
        encoded = _deep_png(photograph)
    else:
        # Pillow, writing to the file itself, would hide that the disk is full.
        stream = io.BytesIO()
        shown = to_pil(photograph)
        shown = shown.convert("RGB") if style == "WEBP" and shown.mode == "L" else shown
        shown.save(stream, format=style, **OPTIONS.get(style, {}), **kept(photograph.about))
        encoded = stream.getvalue()
    with replacing(path) as file:
        file.write(encoded)


def is_image_name(path: Path) -> bool:
    """Whether the suffix is that of images, of a format that is written or not."""
    return path.suffix.lower() in Image.registered_extensions()


def file_format(path: Path) -> str:
    """Return Pillow's name of the format that the path's suffix stands for.

    Raises:
        ImageError: For a suffix that is not written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ImageError(
            f"expected a file that ends in {', '.join(sorted(SUFFIXES))}, got {path.name}"
        )
    return Image.registered_extensions()[path.suffix.lower()]


def check_holds(photograph: Photograph, path: Path) -> None:
    """Raise ImageError where the format of the path's suffix cannot hold such an image."""
    style = file_format(path)
    if style == "TIFF":
        return
    pixels = photograph.pixels
    longest, most = max(pixels.shape[-3:-1]), SIDES.get(style, math.inf)
    if longest > most:
        raise ImageError(
            f"{path}: {style} holds at most {most:,} pixels a side, got {longest:,}: write a .tif, "
            "or .png"
        )
    bits = 8 * pixels.dtype.itemsize if pixels.dtype.kind == "u" else 0  # 0: not whole numbers
    if pixels.ndim > 3 or _channels(photograph) not in HELD[style].get(bits, ()):
        what = f"{pixels.dtype} {MODES[_channels(photograph)]}"
        what = f"{len(pixels)} pages" if pixels.ndim > 3 else what
        held = "; ".join(
            f"{bits} bits a channel, {', '.join(MODES[n] for n in channels)}"
            for bits, channels in HELD[style].items()
        )
        cure = "write a .tif" if style == "PNG" else "write a .tif, or .png"
        raise ImageError(f"{path}: {style} holds {held}; got {what}: {cure}")


def _read(image: ImageFile.ImageFile, path: Path) -> Photograph:
    """Return the photograph of what Pillow has opened."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a phone's photograph with its smaller copies
        raise ImageError(f"{path} holds {frames} images: save each in a file of its own")
    rounding = _jpeg_rounding(getattr(image, "quantization", {}))
    deep = image.mode in MODES.values() and _is_deep(image, path)
    deep = deep or (image.format == "PNG" and _is_clear_grey(image))
    if deep and image.format != "PNG":
        raise ImageError(f"{path} has 16 bits a channel, of which Pillow reads 8: save it as TIFF")
    damaged = _drop_damaged_exif(image)
    orientation = image.getexif().get(tiff.ORIENTATION, 1)
    upright, note = _plain(ImageOps.exif_transpose(image))  # decodes all of it
    photograph = of_pil(upright)
    note = "; ".join(filter(None, (note, damaged)))
    about = photograph.about._replace(rounding=rounding, note=note)
    if not deep:
        return photograph._replace(about=about)
    return Photograph(tiff.upright(imagecodecs.png_decode(path.read_bytes()), orientation), about)


def _is_clear_grey(image: Image.Image) -> bool:
    """Whether an image has a clear level of grey in a mode that Pillow gives no transparency."""
    return image.mode in ("1", "I", "I;16") and "transparency" in image.info


def _is_deep(image: ImageFile.ImageFile, path: Path) -> bool:
    """Whether an image has more than 8 bits a channel in its file."""
    arguments = [tile[3] for tile in image.tile]
    if image.format == "PPM":
        return any(isinstance(each, tuple) and each[-1] > 255 for each in arguments)
    if image.format == "JPEG2000":
        with path.open("rb") as file:
            head = file.read(1_000)
        place = head.find(SIZES)
        return place >= 0 and (head[place + BITS_PLACE] & 0x7F) >= 8  # one less than the bits
    return bool(DEEP.search(str(arguments)))


def _drop_damaged_exif(image: Image.Image) -> str:
    """Leave EXIF data that does not parse out of an image's `info`; return a note of it."""
    try:
        Image.Exif().load(image.info.get("exif", b""))
    except DAMAGE:
        del image.info["exif"]
        return "its damaged EXIF data were left out"
    return ""


def _plain(image: Image.Image) -> tuple[Image.Image, str]:
    """Return grey or RGB, with or without alpha, and a note of what that changes."""
    if image.mode in ("P", "PA"):
        clear = image.mode == "PA" or "transparency" in image.info
        return like(image.convert("RGBA" if clear else "RGB"), image), "its palette became RGB"
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        return to_rgb(image)
    if image.mode in ("L", "RGB") and "transparency" in image.info:  # one level or colour
        return like(image.convert(f"{image.mode}A"), image), CLEARED
    if _is_clear_grey(image):
        return like(image.convert("L"), image), CLEARED
    if image.mode == "1":
        return like(image.convert("L"), image), "1 bit per pixel became 8"
    if image.mode == "I":
        pixels = np.asarray(image)
        if pixels.min() >= 0 and pixels.max() < 2**16:
            return like(Image.fromarray(pixels.astype(np.uint16)), image), ""
    return image, ""


def _channels(photograph: Photograph) -> int:
    return photograph.pixels.shape[-1]


def _jpeg_rounding(tables: dict[int, list[int]]) -> float:
    """Return the deviation of the error that a JPEG's brightness table leaves in a pixel.

    A coefficient that is rounded to multiples of q has an error of variance `q²/12`, or of its own
    power where that is less: it is then rounded to 0. The power of photographs falls with the
    square of the frequency (Field 1987). The transform is orthonormal.
    """
    if not tables:
        return 0.0
    steps = np.asarray(tables[0], dtype=float).reshape(8, 8)
    frequency = np.hypot(*np.mgrid[:8, :8]).clip(1)
    errors = np.minimum(steps**2 / 12, POWER / frequency**2)
    return float(np.sqrt(errors.mean())) / 255


def _deep_png(photograph: Photograph) -> bytes:
    """Return a PNG of 16-bit colour, with EXIF, profile and resolution."""
    encoded, about = imagecodecs.png_encode(photograph.pixels), photograph.about
    stream = io.BytesIO()
    end = 8 + 25  # of the signature and the header chunk: the others follow
    stream.write(encoded[:end])
    if about.profile:
        compressed = imagecodecs.zlib_encode(about.profile)
        PngImagePlugin.putchunk(stream, b"iCCP", b"ICC Profile\0\0" + compressed)
    if about.dpi:
        metres = [round(value / 0.0254) for value in about.dpi]
        PngImagePlugin.putchunk(stream, b"pHYs", struct.pack(">IIB", *metres, 1))
    if about.exif:
        PngImagePlugin.putchunk(stream, b"eXIf", about.exif.removeprefix(b"Exif\0\0"))
    stream.write(encoded[end:])
    return stream.getvalue()


@contextmanager
def _without_pillows_warnings() -> Iterator[None]:
    """Silence warnings about damaged EXIF data and about the size of a large photograph."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield
