"""The progress bars: steps, metrics, steps per second, time left."""

from __future__ import annotations

import sys

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import safe_mean
from tqdm import tqdm

from ebrl.command.bars import progress_bar
from ebrl.command.environments.evaluation import Evaluations
from ebrl.command.wording import counted


class AgentProgress(BaseCallback):
    """A bar on a terminal, and a line for each evaluation on any output.

    Args:
        total_timesteps: Steps of the whole run.
        evaluations: The callback whose evaluations are shown.
    """

    def __init__(self, total_timesteps: int, evaluations: Evaluations) -> None:
        super().__init__()
        self.total_timesteps = total_timesteps
        self.evaluations = evaluations
        self.shown = len(evaluations.done)
        self.bar: tqdm | None = None

    def _on_training_start(self) -> None:
        self.bar = progress_bar(total=self.total_timesteps, done=self.num_timesteps)
        self.bar.set_postfix_str("return …", refresh=False)

    def _on_rollout_start(self) -> None:
        self._show_evaluations()

    def _on_step(self) -> bool:
        assert self.bar is not None  # called before the first step
        episodes = self.model.ep_info_buffer
        if episodes and not self.bar.disable:
            mean = safe_mean([episode["r"] for episode in list(episodes)[-10:]])
            self.bar.set_postfix_str(f"return {mean:.5g}", refresh=False)
        self.bar.update(self.num_timesteps - self.bar.n)
        return True

    def close(self) -> None:
        """Show the last evaluation and remove the bar."""
        self._show_evaluations()
        if self.bar is not None:
            self.bar.close()

    def _show_evaluations(self) -> None:
        for entry in self.evaluations.done[self.shown :]:
            tqdm.write(
                f"step {entry['timesteps']:>9,}   return {entry['mean']:10.2f} ± {entry['std']:.2f}"
                f"   ({counted(len(entry['returns']), 'episode')})",
                file=sys.stdout,
            )
        self.shown = len(self.evaluations.done)
