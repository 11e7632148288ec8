"""The data of a training: batches in random order, and what is refused before work starts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from ebrl import schema
from ebrl.energies import Energy, check_energy, check_one_number_each
from ebrl.energies.evaluating import evaluating
from ebrl.networks import MLPEnergy
from ebrl.objectives.contrastive import contrastive_parts
from ebrl.objectives.protocol import Objective, conditioned
from ebrl.schema import Schema
from ebrl.storage import StorageError
from ebrl.training.ragged import Ragged
from ebrl.training.tables import check_finite, load_table

Data = Tensor | Dataset | str | Path


class Order:
    """Rows of the data in random order: each comes once before any comes again.

    An epoch leaves out the rows that do not fill a last batch.

    Args:
        size: The number of rows.
        batch_size: The number of rows in a batch.
        tensors: The data, if in memory: a state can be restored only with the same data.
    """

    def __init__(self, size: int, batch_size: int, tensors: Sequence[Tensor] = ()):
        if not 1 <= batch_size <= size:
            raise ValueError(
                f"expected at least as many rows as a batch has, got {size} for "
                f"batch_size={batch_size}: pass a smaller batch_size"
            )
        self.size, self.batch_size, self.tensors = size, batch_size, tensors
        self.permutation, self.position = torch.empty(0, dtype=torch.long), size

    def next(self, generator: Generator) -> Tensor:
        """Return the rows of the next batch, `(batch_size,)`."""
        if self.position + self.batch_size > self.size:
            self.permutation, self.position = self.shuffled(generator), 0
        self.position += self.batch_size
        return self.permutation[self.position - self.batch_size : self.position]

    def shuffled(self, generator: Generator) -> Tensor:
        """Return the rows of an epoch in the order in which batches take them."""
        return torch.randperm(self.size, generator=generator, device=generator.device)

    @cached_property
    def fingerprint(self) -> str:
        """The digest of the data in memory, '' where there are none."""
        digest = hashlib.blake2b(digest_size=16)
        for tensor in self.tensors:
            digest.update(
                tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
            )
        return digest.hexdigest() if self.tensors else ""

    def state_dict(self) -> dict[str, Any]:
        """Return the order of this epoch, the place in it, and what tells the data from others."""
        return {
            "permutation": self.permutation,
            "position": self.position,
            "size": self.size,
            "fingerprint": self.fingerprint,
        }

    def schema(self) -> Schema:
        """The schema of a state: an order of as many rows."""

        def permutation(rows: Any, place: str) -> None:
            count = rows.numel() if isinstance(rows, Tensor) else 0
            schema.tensor((count,), torch.long)(rows, place)
            if count and (int(rows.min()) < 0 or int(rows.max()) >= self.size):
                raise StorageError(f"{place}: expected rows from 0 to {self.size - 1}")

        def size(rows: Any, place: str) -> None:
            schema.integer(1)(rows, place)
            if rows != self.size:
                raise StorageError(f"expected data of {rows} rows, as before, got {self.size}")

        def fingerprint(digest: Any, place: str) -> None:
            if digest != self.fingerprint:
                raise StorageError(
                    f"{place}: expected the data of the training so far, got others: put them "
                    "back, or begin a new training"
                )

        position = schema.integer(0, self.size + 1)
        return schema.record(
            {
                "size": size,
                "fingerprint": fingerprint,
                "permutation": permutation,
                "position": position,
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.schema()(state, "order")
        self.permutation = state["permutation"].to(self.permutation.device)
        self.position = state["position"]


class LengthOrder(Order):
    """Rows in random order, in batches of similar lengths.

    An epoch shuffles the rows, sorts each pool of `POOL` batches by length, and shuffles the rows
    of each batch and the batches: the place of a row says nothing of its length.
    """

    POOL = 64

    def __init__(self, lengths: Tensor, batch_size: int, tensors: Sequence[Tensor] = ()):
        super().__init__(len(lengths), batch_size, tensors)
        self.lengths = lengths

    def shuffled(self, generator: Generator) -> Tensor:
        whole = self.size // self.batch_size * self.batch_size
        rows = super().shuffled(generator)[:whole]
        lengths = self.lengths.to(rows.device)
        pools = rows.split(self.POOL * self.batch_size)
        rows = torch.cat([pool[lengths[pool].argsort(stable=True)] for pool in pools])
        batches = rows.view(-1, self.batch_size)
        places = torch.rand(batches.shape, generator=generator, device=generator.device).argsort(1)
        order = torch.randperm(len(batches), generator=generator, device=generator.device)
        return batches.gather(1, places)[order].flatten()


def order_of(data: Tensor | Dataset, batch_size: int) -> Order:
    """Return the random order in which a training takes the rows of the data."""
    if isinstance(data, Ragged):
        return LengthOrder(data.lengths, batch_size, (data.lengths, data.flat))
    return Order(len(data), batch_size, _tensors(data))  # type: ignore[arg-type]


def take_rows(
    data: Tensor | Dataset, index: Tensor, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Return rows of the data and their conditions, None where there are none, on `device`."""
    if isinstance(data, Ragged):
        return on_device(data.batch(index.cpu()), device)
    if is_in_memory(data):
        return on_device([tensor[index.to(tensor.device)] for tensor in _tensors(data)], device)
    return on_device(default_collate([data[i] for i in index.tolist()]), device)


def on_device(batch: Any, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Return the x of a collated batch and its conditions, None where there are none."""
    batch = [batch] if isinstance(batch, Tensor) else batch
    if len(batch) > 2:
        raise ValueError(
            f"expected rows of x, or of x and a condition, got {len(batch)} parts: join the "
            "conditions to one tensor"
        )
    x, condition = [*batch, None][:2]
    return x.to(device), condition if condition is None else condition.to(device)


def is_in_memory(data: Tensor | Dataset) -> bool:
    """Return whether the rows are tensors, which no worker needs to make."""
    return bool(_tensors(data)) or isinstance(data, Ragged)


def as_training_data(
    energy: Energy, data: Data, batch_size: int, objective: Objective, standardise: bool
) -> Tensor | Dataset:
    """Return the data of a training, read from their file and checked by `check_fit`.

    With `standardise` the energy's input is standardised to them; it counts as trained from now on.
    """
    data = load_table(data) if isinstance(data, str | Path) else data
    check_fit(energy, data, batch_size, objective)
    if standardise:
        standardise_input(energy, data)
    for part in energy.modules():
        if isinstance(part, MLPEnergy):
            part.fresh = False
    return data


def check_fit(
    energy: Energy, data: Tensor | Dataset, batch_size: int, objective: Objective | None = None
) -> None:
    """Check that an energy can be trained on data, before work starts.

    Raises:
        ValueError: If the energy has no weights or does not return one number for each x; if the
            data are not finite, fewer than a batch, of a shape or dtype that the energy does not
            take, or outside the space of the objective's chains.
        TypeError: If the energy is no `Energy`, the data are no tensor and no dataset with a
            length, the objective is a class, or the data have conditions and the energy takes none.
    """
    check_energy(energy)
    if isinstance(data, DataLoader) or not hasattr(data, "__len__"):
        raise TypeError(
            f"expected a tensor or a dataset with a length, got a {type(data).__name__}: the "
            "training makes batches itself, so pass the dataset and batch_size"
        )
    if isinstance(objective, type):
        raise TypeError(f"expected an objective, got the class {objective.__name__}: call it")
    weight = next((p for p in energy.parameters() if p.requires_grad), None)
    if weight is None:
        raise ValueError(
            f"expected an energy with weights to train, got {type(energy).__name__} with none"
        )
    for tensor in _tensors(data):
        check_finite(tensor)
    order_of(data, batch_size)
    x, condition = take_rows(data, probe_rows(data), weight.device)
    if x.dtype != weight.dtype and (x.is_floating_point() or isinstance(energy, MLPEnergy)):
        raise _other_dtype(x, weight)
    if x.ndim - 1 != energy.event_ndim:
        raise ValueError(
            f"expected rows with {energy.event_ndim} axes each, as the energy has it, got data of "
            f"shape (n, {', '.join(map(str, x.shape[1:]))})"
        )
    # Without a condition the objective may supply noise levels; otherwise its first step raises.
    if not energy.takes_condition or condition is not None:
        _check_value(energy, x, condition, weight)
    for part in contrastive_parts(objective):
        part.check_inside(_tensors(data)[0] if _tensors(data) else x)


def _check_value(energy: Energy, x: Tensor, condition: Tensor | None, weight: Tensor) -> None:
    """Raise `ValueError` unless the energy gives one number for each x."""
    try:
        with torch.no_grad(), evaluating(energy):  # dropout would draw from its random stream
            value = conditioned(energy, condition)(x)
    except RuntimeError as error:
        if x.is_floating_point():
            raise
        raise _other_dtype(x, weight) from error  # torch does not multiply them by weights
    check_one_number_each(value, x, energy.event_ndim)


def _other_dtype(x: Tensor, weight: Tensor) -> ValueError:
    return ValueError(
        f"expected data of the energy's dtype {weight.dtype}, got {x.dtype}: "
        f"data.to({weight.dtype})"
    )


def standardise_input(energy: Energy, data: Tensor | Dataset) -> None:
    """Standardise the input of an `MLPEnergy` to data whose scale is unusual.

    Unusual is a column whose mean exceeds its deviation, or whose deviation is outside [1/2, 2]. A
    network that was standardised or trained by `fit` before, or whose weights were loaded, keeps
    its scale: another would change its function.
    """
    if not isinstance(energy, MLPEnergy) or not _tensors(data):
        return
    if energy.mean is not None or not energy.fresh:
        return
    x = _tensors(data)[0]
    deviation = x.std(0)
    usual = (x.mean(0).abs() <= deviation) & (deviation >= 0.5) & (deviation <= 2)
    if not usual.all():
        energy.standardise(x)


def probe_rows(data: Tensor | Dataset) -> Tensor:
    """Return the indices of two rows for a trial evaluation, the likeliest to be out of range.

    For class labels these have the smallest and the largest label, for rows of integers the largest
    integer and the greatest length.
    """
    if isinstance(data, Ragged):
        return torch.stack([data.row_of(data.flat.argmax()), data.lengths.argmax()])
    labels = data.tensors[1] if isinstance(data, TensorDataset) and len(data.tensors) > 1 else None
    if labels is not None and labels.ndim == 1 and not labels.is_floating_point():
        return torch.stack([labels.argmin(), labels.argmax()])
    return torch.arange(2 if len(data) > 1 else 1)  # type: ignore[arg-type]


def _tensors(data: Tensor | Dataset) -> tuple[Tensor, ...]:
    """Return the tensors that hold the data, () for a dataset that makes its items."""
    if isinstance(data, TensorDataset):
        return data.tensors
    return (data,) if isinstance(data, Tensor) else ()
