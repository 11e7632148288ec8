"""Processes that make the rows of a dataset, such as a folder of images, ahead of the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ebrl.training.data import Order, is_in_memory


class Workers:
    """Worker processes that make the batches of an epoch in advance.

    The order of an epoch is drawn at its start and not earlier, so that the random streams, and the
    training, are the same for any number of workers. Each epoch seeds the workers anew.

    Args:
        data: A dataset for `torch.utils.data.DataLoader`, with a length, not in memory.
        order: The order of the training; call `take` after `order.next`.
        split: Maps the rows of a batch to those of each call of `take`.
    """

    def __init__(
        self,
        data: Tensor | Dataset,
        order: Order,
        count: int,
        split: Callable[[Tensor], Sequence[Tensor]],
    ):
        check_workers(count, data)
        self.order, self.split = order, split
        self.epoch: Tensor | None = None  # the permutation that the batches are of
        self.coming: list[list[int]] = []  # the rows of each of them
        self.loader: DataLoader[Any] = DataLoader(
            data,  # type: ignore[arg-type]
            batch_sampler=self.coming,
            num_workers=count,
            persistent_workers=True,
            generator=torch.Generator(),  # seeds the workers; the global stream stays as it is
        )
        self.batches: Iterator[Any] = iter(())

    def take(self) -> Any:
        """Return the next rows, collated: one split after the other of the order's last `next`."""
        if self.epoch is not self.order.permutation:
            self.epoch = self.order.permutation
            size = self.order.batch_size
            left = self.epoch[self.order.position - size :].cpu()
            steps = left[: len(left) // size * size].split(size)
            self.coming[:] = [part.tolist() for rows in steps for part in self.split(rows)]
            self.batches = iter(self.loader)
        return next(self.batches)


def check_workers(count: int, data: Tensor | Dataset) -> None:
    """Raise `ValueError` for workers on data in memory."""
    if count and is_in_memory(data):
        raise ValueError(
            f"expected workers for a dataset that makes its items, got {count} for "
            f"{type(data).__name__}: tensors are in memory and need none, workers=0"
        )
