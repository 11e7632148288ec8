"""Batches without a row: their energies are empty, and they leave no trace."""

from __future__ import annotations

import pytest
import torch

from ebrl.energies import Energy
from ebrl.networks import MLPEnergy
from ebrl.networks.normalization import BatchNormalization


@pytest.mark.parametrize("shape", [(0, 2), (0, 5, 2), (4, 0, 2)], ids=str)
@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("condition_dimension", [0, 3])
def test_an_empty_batch_has_empty_energies(
    condition_dimension: int, members: int, normalization: str | None, shape: tuple[int, ...]
) -> None:
    net = MLPEnergy(
        2,
        (7, 5),
        condition_dimension=condition_dimension,
        members=members,
        normalization=normalization,  # type: ignore[arg-type]
    )
    for training in (True, False):
        energy: Energy = net.train(training)
        if condition_dimension:
            energy = net.given(torch.zeros(shape[0], condition_dimension))
        x = torch.zeros(shape, requires_grad=True)
        energy(x).sum().backward()
        assert x.grad is not None
        for one in (energy, energy.prepared()):
            with torch.no_grad():
                assert one(x).shape == shape[:-1]
            value, gradient = one.value_and_gradient(x)
            assert (value.shape, gradient.shape) == (shape[:-1], shape)
    assert all(statistic.isfinite().all() for statistic in net.buffers())


@pytest.mark.parametrize("members", [1, 2])
def test_a_batch_without_rows_has_no_statistics(members: int) -> None:
    normalization = BatchNormalization(members, 3)
    shape = (members, 4, 3) if members > 1 else (4, 3)
    normalization(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    before = {name: buffer.clone() for name, buffer in normalization.named_buffers()}
    empty = normalization(torch.zeros(*shape[:-2], 0, 3))
    assert empty.shape == (*shape[:-2], 0, 3)
    assert all(torch.equal(before[name], now) for name, now in normalization.named_buffers())
