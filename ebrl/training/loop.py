"""The training loop: any energy, any objective, in memory or in a folder.

    fit(energy, data, objective, steps=1500, generator=generator)

A step is `Training.advance`; all else (TensorBoard, checkpoints, progress) is a callback between
two steps. A checkpoint holds everything that a step changes, so that a training that was killed
continues to the same weights, bit for bit, on the same machine and versions. Where
`torch.distributed` is initialised, as under `torchrun`, all its processes train one energy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset

from ebrl import schedules, schema
from ebrl.energies import Energy
from ebrl.generators import check_generator
from ebrl.objectives.protocol import Objective
from ebrl.ranges import check_at_least
from ebrl.rolling import checkpoint_path, step_of
from ebrl.sampling import Sampler, StartError
from ebrl.schema import Schema
from ebrl.storage import StorageError
from ebrl.training.checkpoints import checkpoints_in, newest_checkpoint, write_checkpoint
from ebrl.training.data import Data, Order, as_training_data, order_of, take_rows
from ebrl.training.log import POINTS, TensorBoardLog
from ebrl.training.optimization import (
    RunningClip,
    check_holds,
    load_moments,
    moving_average,
    scale_learning_rate,
    trainable_parameters,
)
from ebrl.training.precision import Precision
from ebrl.training.processes import check_minutes, process_count, rank, same_in_all
from ebrl.training.shares import Shares, check_shares
from ebrl.training.watch import (
    Alarm,
    DivergedError,
    NonFiniteError,
    advice,
    check_finite_numbers,
    check_finite_weights,
    watch,
)
from ebrl.training.workers import Workers

Metrics = dict[str, Tensor]
Schedule = Callable[[float], float]


@dataclass
class Training:
    """Everything that training steps change, and what they need."""

    energy: Energy
    data: Tensor | Dataset
    objective: Objective
    optimizer: Optimizer
    generator: torch.Generator
    order: Order
    averaged: AveragedModel | None = None
    clip: RunningClip | float | None = None
    precision: Precision = "float32"
    share_count: int | None = None
    worker_count: int = 0
    minutes: float | None = None
    step: int = 0
    seconds: float = 0.0  # spent so far; counted where there are minutes
    alarm: Alarm = field(default_factory=Alarm)
    device: torch.device = field(init=False)
    shares: Shares = field(init=False)
    source: Tensor | Dataset | Workers = field(init=False)

    def __post_init__(self) -> None:
        check_generator(self.generator)
        check_holds(self.optimizer, self.energy, self.objective)
        self.device = next(self.energy.parameters()).device
        if self.precision not in get_args(Precision):
            raise ValueError(f"expected precision in {get_args(Precision)}, got {self.precision!r}")
        if isinstance(self.clip, float | int) and not self.clip > 0:
            raise ValueError(f"expected clip > 0, the largest norm, got {self.clip}")
        check_minutes(self.minutes)
        count = process_count() if self.share_count is None else self.share_count
        check_shares(count, self.objective, self.order.batch_size)
        self.shares = Shares(self.energy, self.objective, self.generator, self.device, count)
        self.source = self.data
        if self.worker_count:
            self.source = Workers(self.data, self.order, self.worker_count, self.shares.split)

    @property
    def average(self) -> Energy:
        """The energy with the moving average of the weights; the energy itself without one."""
        return self.energy if self.averaged is None else cast(Energy, self.averaged.module)

    def advance(self) -> Metrics:
        """Take one step and return its metrics.

        Raises:
            DivergedError: If the loss or the gradient is not finite or the energy gap runs away
                (`ebrl.training.watch.watch`). The weights are those before the step.
        """
        mixed = self.precision == "bfloat16"
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=mixed)
        self.optimizer.zero_grad()
        rows = self.order.next(self.generator)
        try:
            loss, metrics = self.shares.backward(self.source, rows, autocast)
        except StartError as error:  # weights so large that the energy overflows
            raise self._diverged(NonFiniteError(str(error)), {}) from error
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        gap = metrics.get("energy_gap", loss)
        found = torch.stack([each.detach().float() for each in (loss, norm, gap)]).cpu()  # one wait
        try:
            self.alarm = watch(self.alarm, found[0], found[2] if "energy_gap" in metrics else None)
            check_finite_numbers(norm_of_the_gradient=found[1])
        except DivergedError as error:
            raise self._diverged(error, metrics) from error
        if self.clip is not None:
            limit = self.clip(norm) if isinstance(self.clip, RunningClip) else self.clip
            nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.energy)
        self.step += 1
        return {"loss": loss, "gradient_norm": norm, **metrics}

    def _diverged(self, error: DivergedError, metrics: Metrics) -> DivergedError:
        """Return the error with the step and the cure."""
        cure = advice(self.objective, metrics)
        return type(error)(f"diverged at step {self.step + 1}: {error}; {cure}")

    def save(self, folder: Path, keep: int = 2) -> Path:
        """Write a checkpoint into `folder` and drop all but the newest; return its path.

        With several processes, all must call it after the same step; rank 0 writes.

        Raises:
            NonFiniteError: If weights are not finite; the checkpoints there stay as they are.
        """
        for part in self._modules().values():
            check_finite_weights(part)
        state = self.state()
        if rank() > 0:
            return checkpoint_path(folder, self.step)
        return write_checkpoint(folder, self.step, state, keep)

    def state(self) -> dict[str, Any]:
        """Return everything that a step changes, which all processes must ask for together."""
        state = {
            "step": self.step,
            "alarm": tuple(self.alarm),
            "order": self.order.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "global_generator": torch.get_rng_state(),  # dropout draws from it
            **{name: part.state_dict() for name, part in self._modules().items()},
        }
        if self.device.type == "cuda":  # and there from that of the device
            state["device_generator"] = torch.cuda.get_rng_state(self.device)
        if self.shares.count > 1:
            state["shares"] = self.shares.state()
        if self.minutes is not None:
            state["seconds"] = self.seconds
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned; `ValueError` for the state of a different training."""
        self._schema()(state, "state")
        try:
            for name, module in self._modules().items():
                module.load_state_dict(state[name])
        except RuntimeError as error:  # what torch raises for other keys and shapes
            raise ValueError(str(error)) from error
        self.order.load_state_dict(state["order"])
        load_moments(self.optimizer, state["optimizer"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["global_generator"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["device_generator"], self.device)
        if self.shares.count > 1:
            self.shares.load_state(state["shares"])
        self.step, self.alarm = state["step"], Alarm(*state["alarm"])
        self.seconds = state.get("seconds", 0.0)

    def _schema(self) -> Schema:
        """What a state must be, as a whole, before any of it is taken."""
        fields = {name: schema.like(part) for name, part in self.state().items()}
        if "objective" in fields:  # its populations change their sizes; it checks its own optimiser
            fields["objective"] = schema.named(schema.anything)
        if self.shares.count > 1:
            fields["shares"] = self.shares.schema()
        fields |= {
            "step": schema.integer(0),
            "alarm": schema.like((0.0, 0.0, 0)),
            "order": self.order.schema(),
            "optimizer": schema.optimizer_state(self.optimizer),
            "generator": schema.torch_stream(self.generator),
            "global_generator": schema.torch_stream(torch.default_generator),
        }
        return schema.record(fields)

    def done(self, steps: int) -> float:
        """Return how far the training is, from 0 to 1: by its steps or by the clock."""
        by_clock = 0.0 if self.minutes is None else self.seconds / (60 * self.minutes)
        return min(max(self.step / steps, by_clock), 1.0)

    def _modules(self) -> dict[str, nn.Module]:
        names = ["energy", "averaged", "clip"]
        if self.shares.count == 1:  # otherwise each share's objective is in its state
            names.append("objective")
        parts = {name: getattr(self, name) for name in names}
        return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}


Callback = Callable[[Training, Metrics], None]


def fit(
    energy: Energy,
    data: Data,
    objective: Objective,
    *,
    steps: int,
    generator: torch.Generator,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    minutes: float | None = None,
    schedule: Schedule = schedules.constant,
    optimizer: Optimizer | None = None,
    ema_decay: float = 0.0,
    clip: RunningClip | float | None = None,
    precision: Precision = "float32",
    shares: int | None = None,
    workers: int = 0,
    standardise: bool = True,
    folder: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 500,
    log_every: int = 50,
    pictures: Sampler | None = None,
    callbacks: Sequence[Callback] = (),
) -> Training:
    """Train `energy` in place and return the training: its `average`, its state.

    Args:
        data: `(n, *event)`, a dataset of x or of (x, condition), or a file for `load_table`.
        steps: Steps in all, those of a resumed run included.
        generator: Source of the order of the data and of all noise.
        batch_size: Rows of the data for each step.
        learning_rate: Adam's learning rate, for the energy and the objective's own parameters.
        minutes: Longest training time; if the steps take longer, the schedule follows the clock.
        schedule: The factor of the learning rate at each fraction of the training, 0 to 1.
        optimizer: Used in place of Adam; it holds `trainable_parameters(energy, objective)`.
        ema_decay: Decay of the moving average of the weights; 0 keeps no average.
        clip: The largest norm of the gradient, or a `RunningClip`.
        precision: "bfloat16" runs losses and sampling under autocast; weights stay float32.
        shares: Parts of a batch (`ebrl.training.shares`); by default one for each process.
        workers: Processes that make the rows of a dataset, such as a folder of images, ahead.
        standardise: Fit the input of an `MLPEnergy` to unusual data (`standardise_input`).
        folder: Where to write TensorBoard events and checkpoints; by default nothing is written.
        resume: Continue from the newest whole checkpoint, at the learning rate given here.
        checkpoint_every: Steps between two checkpoints, of which the two newest are kept.
        log_every: Steps between two entries in TensorBoard.
        pictures: Draws the samples of TensorBoard's pictures (points in the plane, images).
        callbacks: Called after every step with the training and the step's metrics.

    Raises:
        DivergedError: As `Training.advance`; the state before that step is then in `folder`.
    """
    check_at_least(1, steps=steps)
    data = as_training_data(energy, data, batch_size, objective, standardise)
    optimizer = optimizer or Adam(trainable_parameters(energy, objective), learning_rate)
    training = Training(energy, data, objective, optimizer, generator, order_of(data, batch_size),
        averaged=moving_average(energy, ema_decay), clip=clip, precision=precision,
        share_count=shares, worker_count=workers, minutes=minutes)  # fmt: skip
    saving = _saving(training, folder, resume, checkpoint_every, log_every, pictures, steps)
    return _run(training, steps, schedule, callbacks, saving)


def _run(
    training: Training,
    steps: int,
    schedule: Schedule,
    callbacks: Sequence[Callback],
    saving: AbstractContextManager[list[Callback]],
) -> Training:
    """Take all steps, each followed by the callbacks that `saving` yields and then the others."""
    with torch.inference_mode(False), torch.enable_grad(), saving as savers:
        began = time.monotonic() - training.seconds
        while (done := training.done(steps)) < 1:
            scale_learning_rate(training.optimizer, schedule(done))
            metrics = training.advance()
            training.seconds = time.monotonic() - began
            for callback in (*savers, *callbacks):
                callback(training, metrics)
        check_finite_weights(training.energy)
    return training


@contextmanager
def _saving(
    training: Training,
    folder: str | Path | None,
    resume: bool,
    checkpoint_every: int,
    log_every: int,
    pictures: Sampler | None,
    last: int,
) -> Iterator[list[Callback]]:
    """Restore the newest checkpoint, and yield the callbacks that log and write new ones.

    Where a step meets numbers that are not finite, the state before it is saved beside the others.
    """
    if folder is None:
        if resume:
            raise ValueError("expected a folder for resume=True, got none: folder='runs/…'")
        yield []
        return
    check_at_least(1, checkpoint_every=checkpoint_every)
    checkpoints = Path(folder) / "checkpoints"
    _restore(training, checkpoints, resume)
    checkpoints.mkdir(parents=True, exist_ok=True)

    def keep(training: Training, metrics: Metrics) -> None:
        if training.step % checkpoint_every == 0 or training.step == last:
            training.save(checkpoints)

    with ExitStack() as stack:
        callbacks: list[Callback] = [keep]
        if rank() == 0:
            log = TensorBoardLog(folder, log_every, training.step, pictures)
            stack.enter_context(closing(log))
            callbacks.insert(0, _log(log, training))
        try:
            yield callbacks
            if training.step % checkpoint_every and training.step < last:  # its time is over
                training.save(checkpoints)
        except NonFiniteError as error:
            try:
                path = training.save(checkpoints, keep=3)
            except NonFiniteError:  # the weights are lost: older checkpoints stay
                raise error from None
            raise NonFiniteError(f"{error}; the state before that step is in {path}") from error


def _log(log: TensorBoardLog, training: Training) -> Callback:
    """Return a callback that logs every step."""
    first = torch.arange(min(training.order.size, POINTS))
    shown, _ = take_rows(training.data, first, training.device)

    def add(training: Training, metrics: Metrics) -> None:
        log.add(training.step, metrics, training.average, shown)

    return add


def _restore(training: Training, folder: Path, resume: bool) -> None:
    """Restore the newest checkpoint in `folder` if there is one and it is wanted."""
    found = checkpoints_in(folder)
    if not same_in_all(step_of(found[0]) if found else -1):
        raise StorageError(f"{folder}: the processes see different checkpoints: share the folder")
    if not found:
        return
    if not resume:
        raise ValueError(
            f"{folder} holds the checkpoints of a training: pass resume=True to continue it, or "
            "another folder"
        )
    path, state = newest_checkpoint(folder)
    try:
        training.load_state(state)
    except ValueError as error:
        raise StorageError(f"{path}: this training is configured differently: {error}") from error
