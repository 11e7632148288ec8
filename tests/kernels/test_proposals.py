"""Proposals and the space: where free coordinates repeat x, and where draws lie outside."""

from __future__ import annotations

import math

import pytest
import torch
from problems import generator

from ebrl import Energy, FunctionEnergy, Gaussian, Sampler, estimators
from ebrl.kernels import (
    MALA,
    Blocks,
    Cycle,
    Gibbs,
    IndependenceMetropolis,
    IteratedSIR,
    Kernel,
    Proposal,
    ReferenceProposal,
    Tempered,
)
from ebrl.sampling import importance_resampling
from ebrl.spaces import Binary, Box, Product, Space, Torus, Unbounded

FLAT = FunctionEnergy(lambda x: 0.0 * x.sum(-1))
LOW, HIGH = -torch.ones(1), torch.ones(1)
WRAPPED = {
    "reflecting box": Box(LOW, HIGH, "reflect"),
    "torus": Torus(1),
    "product": Product(Torus(1), Binary(2)),
}
KERNELS = {
    "IteratedSIR": lambda proposal: IteratedSIR(proposal, 8),
    "IndependenceMetropolis": IndependenceMetropolis,
    "Cycle": lambda proposal: Cycle([IteratedSIR(proposal, 8), MALA()]),
    "Tempered": lambda proposal: Tempered(IteratedSIR(proposal, 8), [1.0, 2.0]),
}


def kernel_of(name: str, proposal: Proposal, space: Space) -> Kernel:
    if name == "Cycle" and isinstance(space, Product):
        return Cycle([IteratedSIR(proposal, 8), Blocks(space, MALA(), Gibbs())])
    return KERNELS[name](proposal)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("space", WRAPPED)
def test_wrapped_spaces_take_their_own_reference_alone(space: str, kernel: str) -> None:
    wrapped = WRAPPED[space]
    assert wrapped.wrapped
    others = (Gaussian(0.0, 0.5, 1), ReferenceProposal(Box(2 * LOW, 2 * HIGH, "reflect")))
    for proposal in others:
        with pytest.raises(ValueError, match=r"expected ReferenceProposal\(space\) of the sampler"):
            Sampler(kernel_of(kernel, proposal, wrapped), wrapped, steps=1)
    own = kernel_of(kernel, ReferenceProposal(wrapped), wrapped)
    Sampler(own, wrapped, steps=1).sample(FLAT, n=3, generator=generator())


def test_wrapped_parts_and_starts_take_their_own_reference_alone() -> None:
    torus = Torus(1)
    with pytest.raises(ValueError, match=r"ReferenceProposal\(space\) .* Torus, .* got Gaussian"):
        Blocks(Product(torus, Binary(2)), IteratedSIR(Gaussian(0.0, 1.0, 1)), Gibbs())
    with pytest.raises(ValueError, match=r"ReferenceProposal\(space\)"):
        importance_resampling(FLAT, Gaussian(0.0, 1.0, 1), (5,), generator=generator(), space=torus)
    equal = ReferenceProposal(Torus(1))
    x = importance_resampling(FLAT, equal, (5,), generator=generator(), space=torus).x
    assert torus.contains(x).all()


@pytest.mark.parametrize("walls", ["reject", "tanh", "project"])
def test_spaces_that_do_not_wrap_take_any_proposal(walls: str) -> None:
    box = Box(LOW, HIGH, walls)
    assert not box.wrapped
    Sampler(IteratedSIR(Gaussian(0.0, 0.5, 1)), box, steps=1)


# Resampling in a box whose proposal covers more.


def test_draws_outside_of_a_box_have_no_weight() -> None:
    # E = x in [-1, 1] has the mean 1 - coth 1 and the variance 1 - 1/sinh² 1.
    energy, n = FunctionEnergy(lambda x: x[..., 0]), 20_000
    x = importance_resampling(
        energy, Gaussian(0.0, 1.0, 1), (n,), generator=generator(), candidates=128,
        space=Box(LOW, HIGH),
    ).x  # fmt: skip
    assert (x.abs() <= 1).all()
    mean = 1 - 1 / math.tanh(1)
    variance = 1 - 1 / math.sinh(1) ** 2
    # The bias of resampling is of the order of one over the number of candidates.
    assert x.mean().item() == pytest.approx(mean, abs=4 * (variance / n) ** 0.5 + 1 / 128)


def test_a_point_whose_candidates_all_lie_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="draws in the Box among the candidates of every point"):
        importance_resampling(
            FLAT, Gaussian(50.0, 1.0, 1), (3,), generator=generator(), space=Box(LOW, HIGH)
        )


# Bounds of one number for all dimensions.


def test_an_energy_does_not_broadcast_what_is_drawn() -> None:
    energy, scalar, message = Gaussian(0.0, 1.0, 3), Box(-1.0, 1.0), "one number a dimension"
    proposal = ReferenceProposal(scalar)
    for kernel in (IteratedSIR(proposal), IndependenceMetropolis(proposal)):
        with pytest.raises(ValueError, match=message):
            Sampler(kernel, scalar, steps=1).sample(energy, n=4, generator=generator())
    with pytest.raises(ValueError, match=message):
        importance_resampling(energy, proposal, (4,), generator=generator(), space=scalar)
    with pytest.raises(ValueError, match=message):
        estimators.importance(energy, proposal, 100, generator=generator())
    with pytest.raises(ValueError, match=message):
        estimators.log_normalizer(
            energy, space=scalar, kernel=IteratedSIR(proposal), generator=generator()
        )
    full = ReferenceProposal(Box(-torch.ones(3), torch.ones(3)))
    found = estimators.importance(energy, full, 20_000, generator=generator())
    truth = 3 * math.log(math.erf(1 / 2**0.5))
    assert found.value.item() == pytest.approx(truth, abs=4 * found.standard_error.item())


@pytest.mark.parametrize(
    "energy",
    [
        FunctionEnergy(lambda x: x.detach().square().sum(-1)),
        FunctionEnergy(lambda x: torch.as_tensor(x.numpy()).square().sum(-1)),
    ],
    ids=["detached", "NumPy"],
)
def test_an_energy_without_gradients_may_have_one_dimension(energy: Energy) -> None:
    box = Box(LOW, HIGH)
    sampler = Sampler(IteratedSIR(ReferenceProposal(box)), box, steps=1)
    assert sampler.sample(energy, n=4, generator=generator()).x.shape == (4, 1)
    flat = estimators.importance(energy, ReferenceProposal(box), 1000, generator=generator())
    truth = math.log(math.pi**0.5 * math.erf(1))
    assert flat.value.item() == pytest.approx(truth, abs=4 * flat.standard_error.item())


def test_spaces_are_equal_by_their_numbers() -> None:
    for make in (
        lambda: Box(LOW, HIGH, "reflect"),
        lambda: Torus(2, 3.0),
        lambda: Product(Torus(1), Binary(2)),
    ):
        kernel = IteratedSIR(ReferenceProposal(make()))
        Sampler(kernel, make(), steps=1)
    assert not Unbounded(2).wrapped
