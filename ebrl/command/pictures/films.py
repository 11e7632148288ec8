"""Pictures of an episode, step by step, with the energies of the actions beside each.

They go to a window or a video file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from gymnasium.error import DependencyNotInstalled
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from stable_baselines3.common.base_class import BaseAlgorithm

from ebrl.agents.environments import seen_by
from ebrl.command.bars import progress_bar
from ebrl.command.configs.agent_config import TrainConfiguration
from ebrl.command.environments.building import make
from ebrl.command.environments.evaluation import undisturbed_streams
from ebrl.command.environments.watched import Watched
from ebrl.command.errors import RunError, UsageError, extra
from ebrl.command.pictures.action_landscapes import Redraw, draw_actions, why_no_landscape

Show = Callable[[np.ndarray], None]  # takes a picture (height, width, 3), uint8

DPI = 100
LEAST = 360  # pixels of a landscape's sides
BAR = "{n_fmt} steps, {elapsed}, {rate_fmt}"
PLAIN = 30  # frames a second where an environment names none


class Film:
    """Episodes of an agent as pictures.

    Args:
        agent: Who acts.
        configuration: Configuration of its run, which names the environment.
        arguments: Arguments of the environment, in place of those of the run.
        unit: Unit of the energies.

    Raises:
        UsageError: If the environment has no pictures.
    """

    def __init__(
        self, agent: BaseAlgorithm, configuration: TrainConfiguration, arguments: dict, unit: str
    ) -> None:
        name = configuration.environment
        settings = configuration.settings
        given = {**(settings.env_kwargs or {}), **arguments}
        environment = make(name, {**given, "render_mode": "rgb_array"}, settings.wrappers)
        if "rgb_array" not in environment.metadata.get("render_modes", []):
            raise UsageError(f"{name} has no pictures: it lacks the render mode `rgb_array`.")
        self.agent, self.unit = agent, unit
        self.environment = Watched(environment, name)
        self.longest = configuration.settings.evaluation_steps
        self.frames_per_second = int(environment.metadata.get("render_fps", PLAIN))
        self.draws_energies = not why_no_landscape(agent)
        self.figure = Figure(dpi=DPI)
        self.redraw: Redraw | None = None  # once there is a landscape to change
        self.widest = 0  # letters of the tick labels that the layout has room for

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *error: object) -> None:
        self.environment.close()

    def play(self, seed: int, show: Show, *, greedy: bool) -> tuple[float, int]:
        """Play one episode, at most `longest` steps; return its return and its length."""
        total, over, steps = 0.0, False, 0
        with undisturbed_streams(), progress_bar(BAR) as bar:
            observation, _ = self.environment.reset(seed=seed)
            while not over and steps < self.longest:
                seen = seen_by(self.agent, observation)
                action, _ = self.agent.predict(seen, deterministic=greedy)
                show(self._picture(seen))
                observation, reward, terminated, truncated, _ = self.environment.step(action)
                total, steps, over = total + float(reward), steps + 1, terminated or truncated
                bar.update()
            show(self._picture(seen_by(self.agent, observation)))
        return total, steps

    def _picture(self, observation: Any) -> np.ndarray:
        """Return the picture of the environment, with the energies of the actions on its right."""
        try:
            frame = np.asarray(self.environment.render())[..., :3]
        except DependencyNotInstalled as error:
            raise RunError(f"{error} Or: pip install 'ebrl[play]'") from error
        if not self.draws_energies:
            return frame
        side = max(frame.shape[0], LEAST)
        landscape = self._landscape(observation, side)
        above = (side - frame.shape[0]) // 2
        below = side - frame.shape[0] - above
        frame = np.pad(frame, ((above, below), (0, 0), (0, 0)), constant_values=255)
        return np.concatenate([frame, landscape], axis=1)

    def _landscape(self, observation: Any, side: int) -> np.ndarray:
        """Return the picture of the energies, laid out anew only for longer tick labels."""
        figure, canvas = self.figure, FigureCanvasAgg(self.figure)
        figure.set_size_inches(side / DPI, side / DPI)
        if self.redraw is None:
            figure.clear()
            axes = figure.subplots()
            self.redraw = draw_actions(axes, cast(Any, self.agent), observation, self.unit)
        else:
            self.redraw(observation)
        figure.set_layout_engine("none" if self.redraw else "constrained")
        canvas.draw()
        labels = [label for axes in figure.axes for label in axes.yaxis.get_majorticklabels()]
        widest = max(len(label.get_text()) for label in labels)
        if self.redraw and widest > self.widest:
            self.widest = widest
            figure.set_layout_engine("constrained")
            canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


@contextmanager
def opened(video: str | None, frames_per_second: int) -> Iterator[Show]:
    """Yield the receiver of the pictures: a video file, or a window if none is named.

    Raises:
        RunError: If there is no display for a window, or no ffmpeg for a file.
    """
    if video is None:
        yield _window(frames_per_second)
        return
    with extra("play", "imageio", "imageio_ffmpeg"):
        import imageio.v2 as imageio

        if video.endswith(".mp4"):
            import imageio_ffmpeg  # noqa: F401, or imageio would take a plugin that writes no films
    half = Path(video).with_name(f".{Path(video).name}")
    half = half.with_suffix(f".tmp{Path(video).suffix}")
    options: dict[str, Any] = {"duration": 1_000 / frames_per_second, "loop": 0}
    if video.endswith(".mp4"):
        options = {"fps": frames_per_second, "macro_block_size": 2}
    try:
        writer: Any = imageio.get_writer(half, **options)
        with writer:
            yield writer.append_data
        os.replace(half, video)
    except (ImportError, RuntimeError) as error:
        raise RunError(
            f"{video} cannot be written ({error}). A .gif needs no ffmpeg; "
            "ffmpeg comes with: pip install 'ebrl[play]'"
        ) from error
    finally:
        half.unlink(missing_ok=True)


def _window(frames_per_second: int) -> Show:
    """Return a function that shows pictures in a window."""
    import matplotlib
    from matplotlib import pyplot
    from matplotlib.backends import BackendFilter, backend_registry

    interactive = backend_registry.list_builtin(BackendFilter.INTERACTIVE)
    if matplotlib.get_backend().lower() not in interactive:
        raise RunError("there is no display for a window here: --video out.mp4 writes a file.")
    figure, axes = pyplot.subplots(layout="constrained")
    axes.set_axis_off()
    image = None

    def show(picture: np.ndarray) -> None:
        nonlocal image
        if image is None:
            image = axes.imshow(picture)
        image.set_data(picture)
        if not pyplot.fignum_exists(figure.number):  # the window was closed
            raise KeyboardInterrupt
        pyplot.pause(1 / frames_per_second)

    return show
