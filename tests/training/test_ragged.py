"""Rows of different lengths: their batches and their order."""

from __future__ import annotations

import pytest
import torch
from problems import generator

from ebrl.storage import StorageError
from ebrl.training.data import LengthOrder, order_of
from ebrl.training.ragged import Ragged

ROWS = [torch.arange(1, n + 1) for n in (3, 1, 5, 2)]


def test_a_batch_is_padded_to_its_longest_row() -> None:
    data = Ragged(ROWS)
    assert data.batch(torch.tensor([1, 0])).tolist() == [[1, 0, 0], [1, 2, 3]]
    assert data.batch(torch.tensor([2])).tolist() == [[1, 2, 3, 4, 5]]
    assert data[3].tolist() == [1, 2]


def test_an_empty_row_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Ragged([torch.arange(2), torch.arange(0)])


def test_an_epoch_takes_each_row_once_in_batches_of_similar_lengths() -> None:
    lengths = torch.randint(1, 60, (1000,), generator=generator(0))
    order, stream = LengthOrder(lengths, 10), generator(1)
    batches = [order.next(stream) for _ in range(100)]
    assert torch.cat(batches).sort().values.equal(torch.arange(1000))
    spread = torch.stack([lengths[b].max() - lengths[b].min() for b in batches]).float().mean()
    assert spread < 3  # of rows in any order it would be about 50
    means = torch.stack([lengths[b].float().mean() for b in batches])
    halves = [lengths[batch].float().view(2, 5).mean(1) for batch in batches]
    assert (
        abs(float(torch.stack(halves).mean(0).diff())) < 0.2
    )  # the place in a batch says nothing of the length
    assert means[:50].mean() == pytest.approx(means[50:].mean(), abs=10)  # not short ones first


def test_an_order_goes_on_from_its_state() -> None:
    lengths = torch.randint(1, 60, (50,), generator=generator(0))
    one, other, stream = LengthOrder(lengths, 8), LengthOrder(lengths, 8), generator(1)
    one.next(stream)
    other.load_state_dict(one.state_dict())
    assert one.next(stream).equal(other.next(stream))


def test_an_order_goes_on_with_the_same_data_alone() -> None:
    rows = [torch.arange(n) for n in range(1, 21)]
    one = order_of(Ragged(rows), 4)
    one.next(generator())
    order_of(Ragged(rows), 4).load_state_dict(one.state_dict())
    rows[7] = rows[7] + 1
    with pytest.raises(StorageError, match="expected the data of the training so far"):
        order_of(Ragged(rows), 4).load_state_dict(one.state_dict())
