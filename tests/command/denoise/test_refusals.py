"""`ebrl denoise` of what cannot be denoised, read or written, and what failures leave."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile
from photographs import colour, grey, names, noisy, read, write
from PIL import Image

from ebrl.command import main


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
    assert "it is 25.5 here" in capsys.readouterr().err


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
