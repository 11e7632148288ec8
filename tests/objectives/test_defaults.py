"""The default objective: it suits its data, and refuses those that it cannot suit."""

from __future__ import annotations

import pytest
import torch
from problems import generator
from torch import Tensor

from ebrl import FunctionEnergy, networks
from ebrl.objectives import (
    ContrastiveDivergence,
    DenoisingScoreMatching,
    JointClassification,
    persistent,
    persistent_around,
)
from ebrl.spaces import Box, Unbounded
from ebrl.training import fit, two_moons

SCALES = torch.tensor([1.0, 1_000.0, 0.01])


def mixed(n: int = 2_000) -> Tensor:
    """Three columns of very different scales, the second not centred."""
    return SCALES * torch.randn(n, 3, generator=generator()) + torch.tensor([0.0, 9_000.0, 0.0])


@pytest.mark.parametrize("walls", ["reject", "around"])
def test_columns_of_any_scale_are_learnt(walls: str) -> None:
    x = mixed()
    objective = persistent_around(x, 500, 2)
    if walls != "around":
        objective = persistent(Box(x.amin(0) - SCALES, x.amax(0) + SCALES), 500, 2)
    torch.manual_seed(0)
    fit(
        networks.MLPEnergy(3, (32, 32)), x, objective, steps=250, batch_size=128,
        learning_rate=3e-3, generator=generator(1),
    )  # fmt: skip
    chains = objective.chains.positions[objective.chains.started]
    assert torch.allclose(chains.std(0) / x.std(0), torch.ones(3), atol=0.25)
    assert torch.allclose((chains.mean(0) - x.mean(0)) / x.std(0), torch.zeros(3), atol=0.25)


def test_it_trains_in_many_dimensions_where_data_stand_at_walls() -> None:
    # Uniform data in 64 dimensions: nearly each row is near a wall. The energy is to stay flat.
    x = torch.rand(1_000, 64, generator=generator())
    torch.manual_seed(0)
    training = fit(
        networks.MLPEnergy(64, (32,)), x, persistent_around(x, 300, 2), steps=100, batch_size=128,
        generator=generator(1),
    )  # fmt: skip
    assert training.step == 100
    assert training.alarm.level < 10


def test_a_flat_energy_does_not_throw_the_chains_away() -> None:
    objective = persistent(Unbounded(2), 64)
    flat, stream = FunctionEnergy(lambda x: 0.0 * x.sum(-1)), generator()
    for _ in range(5):
        objective(flat, torch.zeros(64, 2), generator=stream)
    assert objective.sampler.step_size <= 1
    assert objective.chains.positions.abs().max() < 60


def test_a_network_that_has_a_scale_keeps_it_and_one_that_needs_none_gets_none() -> None:
    def trained(x: Tensor, energy: networks.MLPEnergy, **options: bool) -> networks.MLPEnergy:
        fit(energy, x, persistent_around(x, 300), steps=1, generator=generator(), **options)
        return energy

    x = two_moons(500).tensors[0]
    standard = (x - x.mean(0)) / x.std(0)
    assert trained(standard, networks.MLPEnergy(2, (8,))).mean is None
    assert trained(100 * x, networks.MLPEnergy(2, (8,)), standardise=False).mean is None
    network = trained(100 * x, networks.MLPEnergy(2, (8,)))
    torch.testing.assert_close(network.deviation, 100 * x.std(0))
    assert torch.equal(trained(x, network).deviation, network.deviation)


def test_a_network_that_was_trained_or_loaded_keeps_its_function() -> None:
    def trained(x: Tensor, energy: networks.MLPEnergy) -> networks.MLPEnergy:
        objective = DenoisingScoreMatching(0.1)
        fit(energy, x, objective, steps=1, learning_rate=1e-9, generator=generator())
        return energy

    usual, at = torch.randn(500, 2, generator=generator()), torch.randn(9, 2)
    network = trained(usual, networks.MLPEnergy(2, (8,)))
    loaded = networks.MLPEnergy(2, (8,))
    loaded.load_state_dict(network.state_dict())
    average = fit(
        networks.MLPEnergy(2, (8,)), usual, DenoisingScoreMatching(0.1), steps=1, ema_decay=0.5,
        generator=generator(),
    ).average  # fmt: skip
    for energy in (network, loaded, average):
        before = energy(at).detach()
        assert trained(100 * usual + 300, energy).mean is None
        torch.testing.assert_close(energy(at).detach(), before)
    assert trained(100 * usual + 300, networks.MLPEnergy(2, (8,))).mean is not None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.cat([mixed(50), torch.ones(50, 1)], 1), r"column 3 from 1\.0 to 1\.0: drop it"),
        (mixed(50).index_fill(0, torch.tensor(7), torch.nan), "column 0 from nan"),
        (torch.zeros(50), r"\(n, dimension\), got \(50,\)"),
    ],
)
def test_data_that_no_box_fits_are_refused(data: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        persistent_around(data)


@pytest.mark.parametrize("nested", [False, True])
def test_data_outside_the_box_of_the_chains_are_refused(nested: bool) -> None:
    objective = persistent(Box(-torch.ones(2), torch.ones(2)), 300)
    assert isinstance(objective, ContrastiveDivergence)
    x = 3 * torch.randn(500, 2, generator=generator())
    outside = int(((x.abs() > 1).any(1)).sum())
    with pytest.raises(ValueError, match=rf"{outside} of 500 rows outside.*persistent_around"):
        fit(
            networks.MLPEnergy(2, (8,)), x, JointClassification(objective) if nested else objective,
            steps=1, generator=generator(),
        )  # fmt: skip


def test_data_of_other_shapes_and_kinds_are_refused() -> None:
    x = torch.randn(300, 2, generator=generator())
    with pytest.raises(ValueError, match=r"a tensor of data .*, got ndarray"):
        persistent_around(x.numpy())
    wide = torch.randn(300, 3, generator=generator())
    with pytest.raises(ValueError, match=r"as many numbers as the Box .* got rows of shape \(3,\)"):
        fit(
            networks.MLPEnergy(3, (8,)), wide, persistent_around(x), steps=1,
            generator=generator(),
        )  # fmt: skip
