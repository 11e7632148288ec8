"""What a training writes to TensorBoard: curves, and samples as pictures."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor

from ebrl.energies import Energy
from ebrl.energies.evaluating import evaluating
from ebrl.ranges import check_at_least
from ebrl.sampling import Sampler

PIXELS = 96  # on each side of a picture of the plane
IMAGES, POINTS = 64, 2_000  # samples in a picture


class TensorBoardLog:
    """Writes the mean of each metric over every `every` steps, and pictures a tenth as often.

    A copy of the sampler and a generator of its own leave the training undisturbed.

    Args:
        step: The training's current step; later events, from a run that was killed, are hidden.
        sampler: Draws the samples of the pictures from its space's reference; None for no pictures.

    Raises:
        ValueError: For a space that cannot draw starting points.
    """

    def __init__(self, folder: str | Path, every: int, step: int, sampler: Sampler | None):
        check_at_least(1, log_every=every)
        if sampler is not None:  # a space without a reference fails here, not at the first picture
            sampler.space.reference((0,), torch.Generator())
        from torch.utils.tensorboard import SummaryWriter  # slow to import: not for all trainings

        self.writer = SummaryWriter(str(folder), purge_step=step + 1)
        self.every, self.sampler = every, copy.deepcopy(sampler)
        self.sums: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, step: int, metrics: dict[str, Tensor], energy: Energy, data: Tensor) -> None:
        """Add a step's metrics; `data` are rows to show beside the energy's samples."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.steps += 1
        if step % self.every == 0:
            for name, total in self.sums.items():
                self.writer.add_scalar(name, float(total) / self.steps, step)
            self.sums, self.steps = {}, 0
        if self.sampler is not None and step % (10 * self.every) == 0:
            self._picture(self.sampler, step, energy, data)

    def _picture(self, sampler: Sampler, step: int, energy: Energy, data: Tensor) -> None:
        """Write samples of an unconditional energy: in the plane a histogram, else a few images."""
        images = data.ndim == 4 and data.shape[1] in (1, 3)
        if energy.takes_condition or not (images or data.shape[1:] == (2,)):
            return
        generator = torch.Generator(data.device).manual_seed(step)
        x = sampler.sample(energy, n=IMAGES if images else POINTS, generator=generator).x
        if images:
            low, high = data.min(), data.max()
            self.writer.add_images("samples", ((x - low) / (high - low)).clamp(0, 1), step)
        else:
            self.writer.add_image("data, samples, density", planes(energy, data, x), step)

    def close(self) -> None:
        """Write what is pending and close the file."""
        self.writer.close()


@torch.no_grad()
def planes(energy: Energy, data: Tensor, samples: Tensor) -> Tensor:
    """Return data, samples and `exp(-E)` over one rectangle, `(1, height, 3 width)` in [0, 1]."""
    low, high = data.amin(0), data.amax(0)
    low, high = low - 0.2 * (high - low), high + 0.2 * (high - low)
    axes = [torch.linspace(float(low[i]), float(high[i]), PIXELS).to(data) for i in (0, 1)]
    with evaluating(energy):  # dropout would draw from its random stream
        value = energy(torch.cartesian_prod(*axes))
    density = (value.min() - value).exp().view(PIXELS, PIXELS)
    edges = [float(edge) for pair in zip(low, high, strict=True) for edge in pair]
    panels = [
        torch.histogramdd(x.float().cpu(), [PIXELS, PIXELS], range=edges).hist
        for x in (data, samples)
    ]
    panels = [panel / panel.max().clamp_min(1) for panel in [*panels, density.cpu()]]
    # The first axis of x runs to the right, the second up.
    return torch.cat([panel.T.flip(0) for panel in panels], -1).unsqueeze(0)
