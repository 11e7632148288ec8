"""Muon: orthogonal steps of matrices, Adam's of all else."""

from __future__ import annotations

import pytest
import torch
from problems import generator
from torch import nn

from ebrl import Gaussian, schedules
from ebrl.networks import MLPEnergy
from ebrl.objectives import NCE
from ebrl.training import fit
from ebrl.training.muon import Muon, orthogonal
from ebrl.training.optimization import trainable_parameters


@pytest.mark.parametrize("shape", [(8, 8), (4, 20), (20, 4)])
def test_the_iteration_keeps_the_singular_vectors_and_evens_the_values(
    shape: tuple[int, int],
) -> None:
    matrix = torch.randn(shape, generator=generator(0))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    found = u.mT @ orthogonal(matrix).float() @ v.mT
    assert s.max() / s.min() > 1.5
    # Five steps of the quintic bring values into (.68, 1.13); bfloat16 rounds.
    assert found.diagonal().min() > 0.6
    assert found.diagonal().max() < 1.25
    assert (found - found.diagonal().diag()).abs().max() < 0.1


def test_what_is_no_matrix_takes_adams_step() -> None:
    ours, theirs = (nn.Parameter(torch.tensor([1.0, -2.0, 3.0])) for _ in range(2))
    muon = Muon([], [ours], learning_rate=0.1, betas=(0.9, 0.99))
    adam = torch.optim.Adam([theirs], 0.1, betas=(0.9, 0.99))
    for _ in range(5):
        for parameter, optimizer in ((ours, muon), (theirs, adam)):
            optimizer.zero_grad()
            parameter.pow(4).sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_step_of_a_matrix_has_the_size_of_adams() -> None:
    matrix = nn.Parameter(torch.zeros(32, 64))
    matrix.grad = torch.randn(32, 64, generator=generator(0))
    Muon([matrix], [], learning_rate=0.1).step()
    size = matrix.detach().square().mean().sqrt()
    assert float(size) == pytest.approx(0.2 * 0.1, rel=0.25)


def test_matrices_of_one_shape_move_together_as_each_would_alone() -> None:
    shapes = [(8, 4), (4, 8), (8, 4), (6, 6)]
    both: list[list[nn.Parameter]] = [[], []]
    for found, together in zip(both, (True, False), strict=True):
        source = generator(1)
        found += [nn.Parameter(torch.randn(shape, generator=source)) for shape in shapes]
        optimizers = [Muon(found, [])] if together else [Muon([each], []) for each in found]
        for _ in range(3):
            for matrix in found:
                matrix.grad = torch.randn(matrix.shape, generator=source)
            for optimizer in optimizers:
                optimizer.step()
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-2)


def test_the_filters_of_a_convolution_are_the_rows_of_a_matrix() -> None:
    source = generator(2)
    filters = nn.Parameter(torch.randn(4, 3, 2, 2, generator=source))
    rows = nn.Parameter(filters.detach().flatten(1).clone())
    for _ in range(3):
        filters.grad = torch.randn(filters.shape, generator=source)
        rows.grad = filters.grad.flatten(1)
        for each in (filters, rows):
            Muon([each], []).step()
    torch.testing.assert_close(filters.flatten(1), rows, atol=0, rtol=0)


def test_the_matrices_of_a_network_are_its_linear_layers_and_convolutions() -> None:
    network = nn.Sequential(
        nn.Embedding(5, 4),
        nn.Linear(4, 3),
        nn.LayerNorm(3),
        nn.Conv2d(3, 5, 3),
        nn.ConvTranspose2d(5, 2, 2),
    )
    matrices, others = (group["params"] for group in Muon.of(network).param_groups)
    assert [each.shape for each in matrices] == [(3, 4), (5, 3, 3, 3), (5, 2, 2, 2)]
    assert len(others) == 6
    assert sum(1 for _ in network.parameters()) == 9


def test_what_an_objective_learns_is_trained_too() -> None:
    energy = MLPEnergy(1, (8,))
    objective = NCE(Gaussian(0.0, 1.0, 1))
    muon = Muon.of(energy, 1e-2, trainable_parameters(energy, objective))
    x = torch.randn(64, 1, generator=generator())
    fit(energy, x, objective, steps=3, batch_size=32, generator=generator(), optimizer=muon)
    assert objective.log_normalizer != 0


def test_a_trapezoid_rises_stays_and_falls() -> None:
    found = [schedules.trapezoid(x) for x in (0.0, 0.01, 0.02, 0.5, 0.66, 0.9, 1.0)]
    assert found == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.0, 0.3, 0.0])
