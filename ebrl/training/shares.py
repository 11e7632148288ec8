"""The shares of a batch, each with its own noise and chains, on one process or several.

Every share has a loss on its rows, and a training step follows the mean of their gradients. The
random numbers of a share depend on its place in the batch alone: one process with four shares, two
with two each and four with one each train the same energy, up to the rounding of a sum. Between
processes PyTorch's `DistributedDataParallel` averages the gradients.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from ebrl import schema
from ebrl.energies import Energy
from ebrl.objectives.protocol import Objective, SelfTrained, as_module
from ebrl.sampling import StartError
from ebrl.schema import Schema
from ebrl.training.data import on_device, take_rows
from ebrl.training.processes import any_process, gathered, mean_over_processes, process_count, rank
from ebrl.training.workers import Workers


class Share:
    """The objective and the random streams of one share.

    The objective has its own chains, and its parameters are those of all shares. `generator` is the
    source of its noise. A `seed` gives the share its own global random streams, for dropout.
    """

    def __init__(
        self, objective: Objective, generator: Generator, device: torch.device, seed: int | None
    ):
        self.objective, self.generator, self.device = objective, generator, device
        self.streams = {}
        if seed is not None:
            for kind in sorted({"cpu", device.type}):
                self.streams[kind] = Generator(kind).manual_seed(seed).get_state()

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """A context in which dropout draws from this share's streams."""
        if not self.streams:
            yield
            return
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.set_rng_state(self.streams["cpu"])
            for device in cuda:
                torch.cuda.set_rng_state(self.streams["cuda"], device)
            yield
            self.streams["cpu"] = torch.get_rng_state()
            for device in cuda:
                self.streams["cuda"] = torch.cuda.get_rng_state(device)

    def state(self) -> dict[str, Any]:
        """Return everything that a step changes."""
        return {
            "generator": self.generator.get_state(),
            "streams": self.streams,
            "objective": as_module(self.objective).state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.generator.set_state(state["generator"])
        self.streams = dict(state["streams"])
        as_module(self.objective).load_state_dict(state["objective"])

    def schema(self) -> Schema:
        """The schema of a state."""
        return schema.record(
            {
                "generator": schema.torch_stream(self.generator),
                "streams": schema.like(self.streams),
                "objective": schema.named(schema.anything),
            }
        )


class Shares:
    """This process's shares of every batch.

    Args:
        objective: The first share's objective; the others have copies with the same parameters.
        generator: Seeds the shares; a single share draws from it.
        count: Number of shares of a batch, in all processes together.
    """

    def __init__(
        self,
        energy: Energy,
        objective: Objective,
        generator: Generator,
        device: torch.device,
        count: int,
    ):
        self.count, processes = count, process_count()
        self.first = rank() * count // processes
        self.module: nn.Module = _Loss(energy, objective)
        self.device = device
        if count == 1:
            self.here = [Share(objective, generator, device, None)]
            return
        seeds = torch.randint(2**62, (count,), generator=generator, device=generator.device)
        mine = seeds.tolist()[self.first : self.first + count // processes]
        objectives = [objective, *(_sharing_parameters(objective) for _ in mine[1:])]
        self.here = [
            Share(own, Generator(generator.device).manual_seed(seed), device, seed)
            for own, seed in zip(objectives, mine, strict=True)
        ]
        if processes > 1:
            # Additive constants have no gradient in score matching: some parameters are unused.
            self.module = DistributedDataParallel(self.module, find_unused_parameters=True)

    def split(self, rows: Tensor) -> list[Tensor]:
        """Return the rows of each of these shares."""
        return [rows[self.first + i :: self.count] for i in range(len(self.here))]

    def backward(
        self, data: Tensor | Dataset | Workers, rows: Tensor, autocast: AbstractContextManager[Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the gradient of the mean loss to the parameters.

        Args:
            data: All data, or the workers that make its batches.
            rows: The rows of the whole batch, the same in every process.

        Returns:
            The loss and the metrics, averaged over the shares of all processes.

        Raises:
            StartError: In every process, if chains of one share start where the energy is NaN.
        """
        found: list[dict[str, Tensor]] = []
        for share, index in zip(self.here, self.split(rows), strict=True):
            if isinstance(data, Workers):
                x, condition = on_device(data.take(), self.device)
            else:
                x, condition = take_rows(data, index, self.device)
            with self._sync(last=share is self.here[-1]), share.drawing():
                with autocast, _failing_together():
                    loss, metrics = self.module(share, x, condition)
                (loss / len(self.here)).backward()
            found.append({"loss": loss.detach(), **metrics})
        if self.count > 1:
            found = [{name: sum(each[name] for each in found) / len(found) for name in found[0]}]  # type: ignore[misc]
        metrics = mean_over_processes(found[0])
        return metrics.pop("loss"), metrics

    def state(self) -> list[dict[str, Any]]:
        """Return the states of all shares on rank 0; all processes must call it together."""
        return gathered([share.state() for share in self.here])

    def load_state(self, states: list[dict[str, Any]]) -> None:
        """Restore this process's shares from the states of all."""
        for share, state in zip(self.here, states[self.first :], strict=False):
            share.load_state(state)

    def schema(self) -> Schema:
        """The schema of the states of all shares."""
        return schema.each(self.here[0].schema(), self.count)

    def _sync(self, last: bool) -> AbstractContextManager[Any]:
        """Average gradients between processes once, after the last of these shares."""
        if isinstance(self.module, DistributedDataParallel) and not last:
            return self.module.no_sync()
        return nullcontext()


class _Loss(nn.Module):
    """The loss of a share, as a module of all trained parameters.

    All processes use the energy's buffers of rank 0, and each its own buffers of the objective.
    """

    def __init__(self, energy: Energy, objective: Objective):
        super().__init__()
        self.energy = energy
        self.learned = nn.ParameterList(as_module(objective).parameters())

    def forward(
        self, share: Share, x: Tensor, condition: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = share.objective(self.energy, x, condition, generator=share.generator)
        return loss, metrics


@contextmanager
def _failing_together() -> Iterator[None]:
    """Raise `StartError` in every process if one cannot start its chains."""
    failed: StartError | None = None
    try:
        yield
    except StartError as error:
        failed = error
    if any_process(failed is not None):
        raise failed or StartError("another process cannot start its chains")


def check_shares(count: int, objective: Objective, batch_size: int) -> None:
    """Raise `ValueError` if rows, shares and processes do not divide each other.

    It is also raised for parts of the objective with their own optimiser, of which each share would
    train a different copy.
    """
    processes = process_count()
    if count < 1 or count % processes:
        raise ValueError(
            f"expected as many shares of a batch as processes, or a multiple, got {count} for "
            f"{processes} processes: noise and chains belong to a share. Start a number of "
            f"processes that divides {count}"
        )
    if batch_size % count:
        raise ValueError(f"expected a batch_size that {count} shares divide, got {batch_size}")
    parts = as_module(objective).modules()
    apart = next((part for part in parts if isinstance(part, SelfTrained)), None)
    if count > 1 and apart is not None:
        raise ValueError(
            f"{type(apart).__name__} trains itself with an optimiser of its own, which shares of a "
            "batch would train apart: expected shares=1, and one process"
        )


def _sharing_parameters(objective: Objective) -> Objective:
    """Return a copy with its own buffers, such as chains, and the same parameters."""
    parameters = as_module(objective).parameters()
    return copy.deepcopy(objective, {id(parameter): parameter for parameter in parameters})
