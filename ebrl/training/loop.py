"""The training loop: any energy, any objective, in memory or in a folder.

    fit(energy, data, objective, steps=1500, generator=generator)

A step is `Training.advance`; all else (TensorBoard, checkpoints, progress) is a callback that looks
at the training between two steps. A checkpoint holds everything that a step changes, so that a
training that was killed goes on to the same weights, bit for bit, on the same machine and versions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import Dataset, TensorDataset, default_collate

from ebrl import schedules
from ebrl.energies import Energy, check_one_number_each
from ebrl.energies.freezing import evaluating
from ebrl.objectives.protocol import Objective, bound
from ebrl.sampling import Sampler
from ebrl.storage import StorageError
from ebrl.training.checkpoints import checkpoints_in, newest_checkpoint, write_checkpoint
from ebrl.training.log import Recorder
from ebrl.training.tables import expect_finite, load_table
from ebrl.training.watch import Alarm, DivergedError, expect_finite_number, watch

Data = Tensor | Dataset | str | Path
Precision = Literal["float32", "bfloat16"]
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
    step: int = 0
    alarm: Alarm = field(default_factory=Alarm)
    device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        self.device = next(self.energy.parameters()).device
        if self.precision not in get_args(Precision):
            raise ValueError(f"expected precision in {get_args(Precision)}, got {self.precision!r}")
        if isinstance(self.clip, float | int) and not self.clip > 0:
            raise ValueError(f"expected clip > 0, the largest norm, got {self.clip}")

    @property
    def average(self) -> Energy:
        """The energy with the moving average of the weights; the energy itself without one."""
        return self.energy if self.averaged is None else cast(Energy, self.averaged.module)

    def advance(self) -> Metrics:
        """Take one step and return what there is to log.

        Raises DivergedError, before they reach the weights, for a loss or gradient that is not
        finite and for an energy gap that runs away (`ebrl.training.watch.watch`).
        """
        x, condition = rows(self.data, self.order.next(self.generator), self.device)
        mixed = self.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            loss, metrics = self.objective(self.energy, x, condition, generator=self.generator)
        self.optimizer.zero_grad()
        loss.backward()
        norm = self._clip_gradient()
        loss = loss.detach()
        try:
            self.alarm = watch(self.alarm, loss, metrics.get("energy_gap"))
            expect_finite_number("norm of the gradient", norm)
        except DivergedError as error:
            raise DivergedError(f"diverged at step {self.step + 1}: {error}") from error
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.energy)
        self.step += 1
        return {"loss": loss, "gradient_norm": norm, **metrics}

    def _clip_gradient(self) -> Tensor:
        """Shorten the gradient to its limit and return its norm before that."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.clip is not None:
            limit = self.clip(norm) if isinstance(self.clip, RunningClip) else self.clip
            nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return norm

    def state(self) -> dict[str, Any]:
        """Return everything that a step changes."""
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
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned, into a training that is built the same way.

        Raises ValueError when it is not.
        """
        modules = self._modules()
        expected = self.state().keys()
        if state.keys() != expected:
            raise ValueError(f"expected the parts {sorted(expected)}, got {sorted(state)}")
        try:
            for name, module in modules.items():
                module.load_state_dict(state[name])
            self.order.load_state_dict(state["order"])
            self.optimizer.load_state_dict(state["optimizer"])
        except RuntimeError as error:  # torch's word for keys and shapes that do not fit
            raise ValueError(str(error)) from error
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["global_generator"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["device_generator"], self.device)
        self.step, self.alarm = state["step"], Alarm(*state["alarm"])

    def _modules(self) -> dict[str, nn.Module]:
        parts = {
            "energy": self.energy,
            "objective": self.objective,
            "averaged": self.averaged,
            "clip": self.clip,
        }
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
    schedule: Schedule = schedules.constant,
    optimizer: Optimizer | None = None,
    ema_decay: float = 0.0,
    clip: RunningClip | float | None = None,
    precision: Precision = "float32",
    folder: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 500,
    log_every: int = 50,
    pictures: Sampler | None = None,
    callbacks: Sequence[Callback] = (),
) -> Training:
    """Train `energy` in place for `steps` and return the training: its `average`, its state.

    Args:
        data: `(n, *event)`, a dataset of x or of (x, condition), or a file for `load_table`.
        learning_rate: Of Adam, which trains the energy and what the objective learns beside it,
            where no `optimizer` is given.
        schedule: The part of the learning rate at each part of the training, from 0 to 1.
        ema_decay: Of the moving average of the weights; 0 keeps none.
        clip: The largest norm of the gradient, or a `RunningClip`.
        precision: "bfloat16" computes under autocast: losses, and energies while sampling, whose
            acceptance then sees energies rounded to three digits. Weights stay float32.
        folder: Gets TensorBoard events every `log_every` steps and the two newest checkpoints;
            without it nothing is written.
        resume: Go on from the newest whole checkpoint in `folder`, to `steps` in all.
        pictures: Draws the samples of the pictures in TensorBoard (points in the plane, images).
        callbacks: Called after every step with the training and the step's metrics.

    Raises ValueError for data that no energy can be fitted to, for parts that do not fit together
    and for a folder that holds checkpoints and is not to be resumed, DivergedError when the loss
    is no longer finite.
    """
    data = load_table(data) if isinstance(data, str | Path) else data
    check(energy, data, batch_size)
    training = Training(
        energy=energy,
        data=data,
        objective=objective,
        optimizer=optimizer or Adam(trained(energy, objective), learning_rate),
        generator=generator,
        order=Order(len(data), batch_size),  # type: ignore[arg-type]
        averaged=averaged(energy, ema_decay) if ema_decay else None,
        clip=clip,
        precision=precision,
    )
    with ExitStack() as stack:
        if folder is not None:
            _begin(training, Path(folder) / "checkpoints", resume)
            keep = _keep(Path(folder) / "checkpoints", checkpoint_every, steps)
            recorder = Recorder(folder, log_every, training.step, pictures)
            stack.enter_context(closing(recorder))
            callbacks = [_record(recorder, training), keep, *callbacks]
        while training.step < steps:
            pace(training.optimizer, schedule(training.step / steps))
            metrics = training.advance()
            for callback in callbacks:
                callback(training, metrics)
    return training


def _begin(training: Training, folder: Path, resume: bool) -> None:
    """Restore the newest checkpoint in `folder` if there is one and it is wanted."""
    if not checkpoints_in(folder):
        return
    if not resume:
        raise ValueError(
            f"{folder} holds the checkpoints of a training: pass resume=True to go on with it, or "
            "another folder"
        )
    path, state = newest_checkpoint(folder)
    try:
        training.load_state(state)
    except ValueError as error:
        raise StorageError(f"{path}: this training is built otherwise: {error}") from error


def _keep(folder: Path, every: int, last: int) -> Callback:
    if every < 1:
        raise ValueError(f"expected checkpoint_every >= 1, got {every}")
    folder.mkdir(parents=True, exist_ok=True)

    def keep(training: Training, metrics: Metrics) -> None:
        if training.step % every == 0 or training.step == last:
            write_checkpoint(folder, training.step, training.state())

    return keep


def _record(recorder: Recorder, training: Training) -> Callback:
    shown, _ = rows(training.data, torch.arange(min(training.order.size, 2_000)), training.device)

    def record(training: Training, metrics: Metrics) -> None:
        recorder.record(training.step, metrics, training.average, shown)

    return record


# ---- the parts of a step --------------------------------------------------------------------


class Order:
    """Rows of the data in random order: each comes once before any comes again.

    The rows that do not fill a last batch wait for another epoch. Raises `ValueError` for fewer
    rows than a batch has.
    """

    def __init__(self, size: int, batch_size: int):
        if not 1 <= batch_size <= size:
            raise ValueError(
                f"expected at least as many rows as a batch has, got {size} for "
                f"batch_size={batch_size}: pass a smaller batch_size"
            )
        self.size, self.batch_size = size, batch_size
        self.permutation, self.position = torch.empty(0, dtype=torch.long), size

    def next(self, generator: torch.Generator) -> Tensor:
        """Return the rows of the next batch, `(batch_size,)`."""
        if self.position + self.batch_size > self.size:
            self.permutation = torch.randperm(
                self.size, generator=generator, device=generator.device
            )
            self.position = 0
        self.position += self.batch_size
        return self.permutation[self.position - self.batch_size : self.position]

    def state_dict(self) -> dict[str, Any]:
        return {"permutation": self.permutation, "position": self.position, "size": self.size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["size"] != self.size:
            raise ValueError(f"expected data of {state['size']} rows, as before, got {self.size}")
        self.permutation = state["permutation"].to(self.permutation.device)
        self.position = state["position"]


class RunningClip(nn.Module):
    """The limit of the gradient's norm: `factor` times the running mean of the clipped norms."""

    mean: Tensor

    def __init__(self, factor: float = 3.0, decay: float = 0.99):
        super().__init__()
        if not factor >= 1 or not 0 <= decay < 1:
            raise ValueError(f"expected factor >= 1 and 0 <= decay < 1, got {factor=}, {decay=}")
        self.factor, self.decay = factor, decay
        self.register_buffer("mean", torch.tensor(0.0))

    @torch.no_grad()
    def forward(self, norm: Tensor) -> Tensor:
        """Return the limit for this step and take its norm into the mean."""
        mean = torch.where(self.mean > 0, self.mean.to(norm), norm)
        limit = self.factor * mean
        self.mean = torch.lerp(torch.minimum(norm, limit), mean, self.decay)
        return limit


def pace(optimizer: Optimizer, part: float) -> None:
    """Set the learning rates to this part of those that the optimiser was made with."""
    for group in optimizer.param_groups:
        group["lr"] = part * group.setdefault("initial_lr", group["lr"])


def averaged(energy: Energy, decay: float) -> AveragedModel:
    """Return the exponential moving average of the weights, to be updated after each step."""
    if not 0 < decay < 1:
        raise ValueError(f"expected 0 <= ema_decay < 1, got {decay}")
    return AveragedModel(energy, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def trained(energy: Energy, objective: Objective) -> list[nn.Parameter]:
    """Return the parameters to train: an objective's too, without parts that train themselves."""
    parameters = list(energy.parameters())
    if isinstance(objective, nn.Module):
        learners = [part for part in objective.modules() if hasattr(part, "optimizer")]
        apart = {id(parameter) for part in learners for parameter in part.parameters()}
        parameters += [each for each in objective.parameters() if id(each) not in apart]
    return parameters


def rows(
    data: Tensor | Dataset, index: Tensor, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Return the rows `index` of the data and their conditions, on `device`."""
    if isinstance(data, Tensor | TensorDataset):
        tensors = (data,) if isinstance(data, Tensor) else data.tensors
        batch: Any = [tensor[index.to(tensor.device)] for tensor in tensors]
    else:
        batch = default_collate([data[i] for i in index.tolist()])
        batch = [batch] if isinstance(batch, Tensor) else batch
    x, condition = [*batch, None][:2]
    return x.to(device), condition if condition is None else condition.to(device)


def check(energy: Energy, data: Tensor | Dataset, batch_size: int) -> None:
    """Raise `ValueError` where energy and data do not fit together, before work starts."""
    weights = next((p for p in energy.parameters() if p.requires_grad), None)
    if weights is None:
        raise ValueError(
            f"expected an energy with weights to train, got {type(energy).__name__} with none"
        )
    if isinstance(data, Tensor | TensorDataset):
        for tensor in (data,) if isinstance(data, Tensor) else data.tensors:
            expect_finite(tensor)
    Order(len(data), batch_size)  # type: ignore[arg-type]
    x, condition = rows(data, _telling(data), weights.device)
    if x.dtype != weights.dtype:
        raise ValueError(
            f"expected data of the energy's dtype {weights.dtype}, got {x.dtype}: "
            f"data.to({weights.dtype})"
        )
    if x.ndim - 1 != energy.event_ndim:
        raise ValueError(
            f"expected rows with {energy.event_ndim} axes each, as the energy has it, got data of "
            f"shape (n, {', '.join(map(str, x.shape[1:]))})"
        )
    if energy.takes_condition and condition is None:
        return  # an objective with noise levels has one to give; others refuse at their first step
    with torch.no_grad(), evaluating(energy):  # without a draw from dropout's stream
        value = bound(energy, condition)(x)
    check_one_number_each(value, x, energy.event_ndim)


def _telling(data: Tensor | Dataset) -> Tensor:
    """Return two rows to try: of labels, which may be out of range, the least and the greatest."""
    labels = data.tensors[1] if isinstance(data, TensorDataset) and len(data.tensors) > 1 else None
    if labels is not None and labels.ndim == 1 and not labels.is_floating_point():
        return torch.stack([labels.argmin(), labels.argmax()])
    return torch.arange(2 if len(data) > 1 else 1)  # type: ignore[arg-type]
