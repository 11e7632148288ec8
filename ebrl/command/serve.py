"""`ebrl serve`: a page in the browser that denoises a photograph."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jsonargparse.typing import restricted_number_type

from ebrl.command.arguments import Parser
from ebrl.command.devices import add_device, device_of
from ebrl.command.errors import extra
from ebrl.command.photographs.batch import WHITE
from ebrl.vision import PACKAGES

if TYPE_CHECKING:
    import gradio
    import numpy as np
    import torch

HELP = """
Serves a page to this machine's browser: drop a photograph, let its noise be estimated or set it,
choose how much of it to remove, compare before and after with a slider, and download the result in
the format and bit depth of the photograph. Open http://127.0.0.1:7860 in a browser; Ctrl-C ends the
service. Photographs stay on the machine that runs the command.

examples:
  ebrl serve
  ebrl serve --port 8000 --host 0.0.0.0                        for every machine of the network
"""
Port = restricted_number_type("Port", int, [(">=", 1), ("<=", 65535)])
NOTHING = "Choose a photograph first."


class Compared(NamedTuple):
    """The parts of the page about a photograph."""

    images: tuple[np.ndarray, np.ndarray] | None  # before and after, 8 bits
    file: str | None  # the result
    facts: str


def main(arguments: list[str]) -> int:
    """Serve the page until it is interrupted; return 0."""
    parser = Parser("serve", HELP)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at")
    parser.add_argument("--port", type=Port, default=7860, help="the port to listen at")
    add_device(parser)
    given = parser.read(arguments)
    with (
        extra("serve", "gradio"),
        extra("vision", *PACKAGES),
        tempfile.TemporaryDirectory(prefix="ebrl-") as downloads,
    ):
        page = build(device_of(given.device), Path(downloads))
        page.launch(server_name=given.host, server_port=given.port, quiet=False)
    return 0


def build(device: torch.device, downloads: Path) -> gradio.Blocks:
    """Return the page; it writes its results into the folder `downloads`."""
    import gradio

    with gradio.Blocks(title="ebrl denoise", analytics_enabled=False) as page:
        gradio.Markdown("# Take the noise out of a photograph")
        with gradio.Row():
            with gradio.Column(scale=1):
                photograph = gradio.File(label="Photograph", type="filepath")
                estimates = gradio.Checkbox(True, label="Estimate the noise")
                sigma = gradio.Slider(0, 100, 15, step=0.5, label="Noise, of 255")
                strength = gradio.Slider(0, 2, 1, step=0.05, label="Strength")
                button = gradio.Button("Denoise", variant="primary")
            with gradio.Column(scale=3):
                slider = gradio.ImageSlider(label="Before and after", format="png")
                facts = gradio.Markdown()
                result = gradio.File(label="Result")

        def show(path: str | None, estimates: bool, sigma: float, strength: float) -> Compared:
            return compared(path, None if estimates else sigma, strength, device, downloads)

        button.click(
            show,
            inputs=[photograph, estimates, sigma, strength],
            outputs=[slider, result, facts],
            api_name="denoise",
        )
    return page


def compared(
    path: str | None,
    sigma: float | None,
    strength: float,
    device: torch.device,
    downloads: Path,
) -> Compared:
    """Denoise the photograph of a file; errors are among the facts.

    Args:
        path: The file.
        sigma: Its noise, in units of white 255; None to estimate it.
        strength: Factor on the removed noise.
        device: Where to compute.
        downloads: The folder in which the result gets one of its own.
    """
    from ebrl.vision.denoising import denoise
    from ebrl.vision.files import SUFFIXES, check_holds, load, save
    from ebrl.vision.grids import in_eight_bits
    from ebrl.vision.images import picture
    from ebrl.vision.noise import noise_levels

    if path is None:
        return Compared(None, None, NOTHING)
    source = Path(path)
    suffix = source.suffix if source.suffix.lower() in SUFFIXES else ".png"
    folder = tempfile.mkdtemp(dir=downloads)  # two photographs may have the same name
    target = Path(folder) / f"{source.stem}-denoised{suffix}"
    try:
        photograph = load(source)
        check_holds(photograph, target)
        pixels, white, *_ = picture(photograph)
        levels = noise_levels(pixels, sigma, WHITE)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always", UserWarning)
            given = None if sigma is None else levels * white
            result = denoise(photograph, given, strength=strength, device=device)
        save(result, target)
    except (OSError, ValueError) as error:
        return Compared(None, None, f"Not denoised: {error}.")
    before, after = (in_eight_bits(one, (0.0, white)).pixels for one in (photograph, result))
    said = [f"Noise {WHITE * levels.mean():.1f} of 255.", *(f"Note: {w.message}." for w in heard)]
    return Compared((_rgb(before), _rgb(after)), str(target), " ".join(said))


def _rgb(pixels: np.ndarray) -> np.ndarray:
    return pixels.repeat(3, -1) if pixels.shape[-1] == 1 else pixels
