"""The training of an energy's run, from the start or from a checkpoint."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextlib import closing
from typing import cast

import torch
from tqdm import tqdm

from ebrl import storage
from ebrl.command.bars import progress_bar
from ebrl.command.configs.energy_config import FitConfiguration, Setup
from ebrl.command.configs.trust import command
from ebrl.command.errors import RunError
from ebrl.command.pictures.energy_pictures import draw_run
from ebrl.command.runs.folder import Run, no_checkpoint
from ebrl.command.sentences import LANGUAGE_FILE
from ebrl.command.training.endings import ending_well
from ebrl.energies import Energy
from ebrl.storage import StorageError
from ebrl.training import Training, fit, load_average
from ebrl.training.loop import Metrics
from ebrl.training.muon import Muon
from ebrl.training.optimization import trainable_parameters
from ebrl.training.precision import Precision
from ebrl.training.processes import any_process, rank
from ebrl.training.ragged import Ragged

LINES = 5  # about a training, whether there is a bar or not
SENTENCES = 1000  # for a run's scale of acceptability
SHOWN = ("loss", "psnr", "energy_gap", "acceptance", "step_size")


class EnergyProgress:
    """Progress as a bar on a terminal and as a few lines elsewhere; stops the training on request.

    Args:
        run: Where a checkpoint goes before a stop.
        total: Steps of the whole training.
        started: Called after the first step.
    """

    def __init__(self, run: Run, total: int, started: Callable[[], object]) -> None:
        self.run, self.total, self.started = run, total, started
        self.stopping = False
        self.bar: tqdm | None = None

    def __call__(self, training: Training, metrics: Metrics) -> None:
        """Show the step, as `fit` calls its callbacks."""
        if self.bar is None:
            self.bar = progress_bar(total=self.total, done=training.step - 1)
            self.started()
        if training.step % max(self.total // LINES, 1) == 0:
            shown = {name: metrics[name] for name in SHOWN if name in metrics}
            line = ", ".join(f"{name} {float(value):.3g}" for name, value in shown.items())
            tqdm.write(f"step {training.step:>7,}   {line}", file=sys.stdout)
        if not self.bar.disable:
            self.bar.set_postfix_str(f"loss {float(metrics['loss']):.3g}", refresh=False)
        self.bar.update(training.step - self.bar.n)
        if any_process(self.stopping):
            training.save(self.run.checkpoints)
            raise KeyboardInterrupt

    def stop(self) -> None:
        """Save after this step and stop there."""
        self.stopping = True

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def train_to_end(
    configuration: FitConfiguration,
    setup: Setup,
    run: Run,
    started: Callable[[], object] = lambda: None,
) -> int:
    """Train until the run has all its steps; then save the energy and draw it.

    `started` is called after the first step, when the checkpoint has proved to fit.

    Returns:
        The exit code.

    Raises:
        RunError: If the training stopped early; its state is saved.
    """
    settings = setup.settings
    rate = float(settings.learning_rate)  # a plain one, that a file can hold
    trained = trainable_parameters(setup.energy, setup.objective)
    muon = Muon.of(setup.energy, rate, trained) if settings.optimizer == "muon" else None
    progress = EnergyProgress(run, settings.steps, started)
    with (
        ending_well(run, progress.stop),
        closing(progress),
        warnings.catch_warnings(record=True) as said,
    ):
        warnings.simplefilter("always")
        training = fit(
            setup.energy,
            setup.data,
            setup.objective,
            steps=settings.steps,
            generator=torch.Generator(setup.device).manual_seed(settings.seed),
            batch_size=settings.batch_size,
            learning_rate=rate,
            minutes=settings.minutes,
            optimizer=muon,
            schedule=settings.schedule,
            ema_decay=settings.ema_decay,
            clip=settings.clip,
            precision=cast(Precision, settings.precision),  # `read_fit` settled `fastest`
            shares=settings.shares,
            workers=settings.workers,
            folder=run.folder,
            resume=True,
            checkpoint_every=settings.checkpoint_every,
            log_every=settings.log_every,
            pictures=setup.sampler,
            callbacks=[progress],
        )
    for warning in said:
        print(f"ebrl: note: {warning.message}", file=sys.stderr)
    if rank() == 0:
        _finish(configuration, setup, run, training)
    return 0


def _finish(configuration: FitConfiguration, setup: Setup, run: Run, training: Training) -> None:
    energy = training.average.cpu()
    storage.save(run.model, energy.state_dict(), {"kind": "energy", "step": training.step})
    if isinstance(setup.data, Ragged):
        save_language(setup.data, energy, run, training.step)
    if not isinstance(setup.data, Ragged):  # sentences have no picture
        for line in draw_run(run.picture, configuration.title, setup, energy):
            print(line)
    print(
        f"Done: {training.step:,} steps.\n"
        f"  energy   {run.model}\n"
        f"  curves   tensorboard --logdir {run.folder}"
    )
    if setup.sampler is not None:
        print(f"  samples  {command('sample', run.folder)}")


def save_language(data: Ragged, energy: Energy, run: Run, step: int) -> None:
    """Write the result of a run on text as a language, for `--model`.

    Its scale of `acceptability` comes from the sentences of the training.
    """
    from ebrl.sequences.energies import CausalEnergy
    from ebrl.sequences.judging import with_rows
    from ebrl.sequences.language import Language, save
    from ebrl.sequences.text import Text

    if not (isinstance(data, Text) and isinstance(energy, CausalEnergy)):
        return
    transformer = energy.transformer.narrowed(data.tokenizer.vocabulary)
    language = Language(
        tokenizer=data.tokenizer,
        causal=CausalEnergy(transformer),
        scorers={},
        shares={"causal": 1.0},
        log_frequencies=data.log_frequencies(),
        balance=1.0,
        fluency=torch.empty(0),
        alphabet=data.alphabet,
        card={"step": step, "sentences": len(data), "run": run.folder.name},
    )
    rows = [data[i] for i in range(min(len(data), SENTENCES))]
    path = run.folder / LANGUAGE_FILE
    save(with_rows(language, rows), path)
    print(f"  language {path}")


def restore_average(setup: Setup, run: Run) -> int:
    """Load the weights of the run's newest checkpoint into its energy.

    Returns:
        The steps of training behind them.

    Raises:
        RunError: If there is no checkpoint yet, or none can be read.
    """
    try:
        return load_average(setup.energy, run.checkpoints)
    except FileNotFoundError as error:
        raise no_checkpoint(run) from error
    except StorageError as error:
        raise RunError(str(error)) from error
