"""The progress bar: steps, return, steps per second, time left."""

from __future__ import annotations

import sys

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import safe_mean
from tqdm import tqdm

from ebrl.command.evaluation import Evaluations

FORMAT = (
    "{percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} steps{postfix}, {rate_fmt}, {remaining} left"
)


class Progress(BaseCallback):
    """A bar on a terminal; and a line for each evaluation, wherever the output goes."""

    def __init__(self, total_timesteps: int, evaluations: Evaluations) -> None:
        super().__init__()
        self.total_timesteps = total_timesteps
        self.evaluations = evaluations
        self.shown = len(evaluations.done)

    def _on_training_start(self) -> None:
        self.bar = tqdm(
            total=self.total_timesteps,
            initial=self.num_timesteps,
            bar_format=FORMAT,
            unit=" steps",
            disable=None,  # not a terminal: no bar
            dynamic_ncols=True,
            leave=False,
        )
        self.bar.set_postfix_str("return …", refresh=False)

    def _on_rollout_start(self) -> None:
        self._show_evaluations()

    def _on_step(self) -> bool:
        episodes = self.model.ep_info_buffer
        if episodes and not self.bar.disable:
            mean = safe_mean([episode["r"] for episode in list(episodes)[-10:]])
            self.bar.set_postfix_str(f"return {mean:.5g}", refresh=False)
        self.bar.update(self.num_timesteps - self.bar.n)
        return True

    def _on_training_end(self) -> None:
        self._show_evaluations()
        self.close()

    def close(self) -> None:
        """Take the bar from the screen; also after a training that did not reach its end."""
        if hasattr(self, "bar"):
            self.bar.close()

    def _show_evaluations(self) -> None:
        for entry in self.evaluations.done[self.shown :]:
            self.bar.write(
                f"step {entry['timesteps']:>9,}   return {entry['mean']:10.2f} ± {entry['std']:.2f}"
                f"   ({len(entry['returns'])} episodes)",
                file=sys.stdout,
            )
        self.shown = len(self.evaluations.done)
