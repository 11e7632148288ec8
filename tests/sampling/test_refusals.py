"""What a sampler refuses, and how it says so."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from problems import generator
from sampler_problems import GAUSSIAN, mala
from torch import nn

from ebrl import DualAveraging, Energy, FunctionEnergy, Gaussian, Sampler
from ebrl.energies import RBM, Ising, Number
from ebrl.kernels import (
    MALA,
    ULA,
    BlockGibbs,
    Blocks,
    Cycle,
    Edits,
    Gibbs,
    GibbsWithGradients,
    IndependenceMetropolis,
    IteratedSIR,
    Kernel,
)
from ebrl.networks import MLPEnergy
from ebrl.sampling import Stage
from ebrl.sampling.sampler import Gradient
from ebrl.spaces import (
    Binary,
    Box,
    Categorical,
    Product,
    Space,
    Strings,
    Unbounded,
)


def test_what_is_no_energy_and_no_generator_is_named() -> None:
    for energy in (lambda x: x.sum(-1), nn.Linear(2, 1)):
        with pytest.raises(TypeError, match=r"expected an Energy, got .*FunctionEnergy"):
            mala().sample(energy, torch.zeros(4, 2), generator=generator())
    with pytest.raises(TypeError, match=r"expected a torch.Generator, got int"):
        mala().sample(GAUSSIAN, torch.zeros(4, 2), generator=0)
    with pytest.raises(TypeError, match=r"expected x as a tensor, got ndarray"):
        mala().sample(GAUSSIAN, np.zeros((4, 2)), generator=generator())
    stages = [Stage(one, 2, 0.1, 1.0) for one in (GAUSSIAN, lambda x: x.sum(-1))]
    with pytest.raises(TypeError, match=r"expected an Energy, got function"):
        mala().anneal(stages, torch.zeros(4, 2), generator=generator())


def test_starting_points_or_their_number_but_not_both() -> None:
    for x, n in ((None, None), (torch.zeros(3, 2), 3)):
        with pytest.raises(ValueError, match="either starting points x or their number n"):
            mala().sample(GAUSSIAN, x, n=n, generator=generator())


def test_n_draws_from_the_space() -> None:
    samples = mala(0, space=Unbounded(2)).sample(GAUSSIAN, n=7, generator=generator())
    assert torch.equal(samples.x, torch.randn(7, 2, generator=generator()))
    box = Box(torch.tensor([1.0, 2.0]), 5.0)
    inside = mala(0, space=box).sample(GAUSSIAN, n=7, generator=generator())
    assert box.contains(inside.x).all()


@pytest.mark.parametrize(
    "space", [None, Box(-1.0, 1.0), Box(-1.0, 1.0, "tanh")], ids=["free", "reject", "tanh"]
)
@pytest.mark.parametrize("kernel", [MALA(), IteratedSIR(Unbounded(), 1)], ids=["MALA", "SIR"])
def test_an_energy_of_the_wrong_shape_is_refused(kernel: Kernel, space: Space | None) -> None:
    energy = FunctionEnergy(lambda x: x.square())
    with pytest.raises(ValueError, match=r"expected shape \(3,\), got \(3, 2\)"):
        Sampler(kernel, space=space, steps=1).sample(
            energy, torch.zeros(3, 2), generator=generator()
        )


@pytest.mark.parametrize(
    ("sampler", "energy", "options", "message"),
    [
        (mala(), GAUSSIAN, {"x": torch.zeros(3, 2).long()}, r"floating point .* got torch.int64"),
        (mala(), FunctionEnergy(torch.sum, 3), {"x": torch.zeros(3, 2)}, "with 3 event axes"),
        (
            mala(space=Unbounded(2)),
            FunctionEnergy(torch.sum, 3),
            {"n": 4},
            r"a space of points with 3 axes, .* got points of shape \(2,\)",
        ),
        (mala(), GAUSSIAN, {"n": 4}, "the space must know its event shape"),
        (
            mala(space=Box(-1.0, 1.0)),
            GAUSSIAN,
            {"n": 4},
            r"the energy's shape \(\*batch, \*event\), \(4, 2\), got \(4, 1\)",
        ),
        (
            Sampler(IndependenceMetropolis(Gaussian(0.0, 3.0, 1)), steps=1),
            GAUSSIAN,
            {"x": torch.zeros(4, 1)},
            r"the energy's shape \(\*batch, \*event\), \(4, 2\), got \(4, 1\)",
        ),
        (mala(space=Box(-1.0, 1.0)), GAUSSIAN, {"x": torch.full((3, 2), 5.0)}, "points in the Box"),
        (
            Sampler(GibbsWithGradients(), Binary(3), steps=1),
            Ising(torch.zeros(3, 3)),
            {"x": torch.full((2, 3), 0.5)},
            "points in the Binary, got some outside",
        ),
        (
            mala(),
            MLPEnergy(2, (4,)).to("meta"),
            {"x": torch.zeros(3, 2)},
            "x and generator on meta, where the energy is, got them on cpu",
        ),
    ],
    ids=[
        "integers",
        "too few axes",
        "another space",
        "no shape",
        "another dimension",
        "another dimension of x",
        "outside a box",
        "not binary",
        "energy elsewhere",
    ],
)
def test_starting_points_that_do_not_fit_are_refused(
    sampler: Sampler, energy: Energy, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sampler.sample(energy, generator=generator(), **options)


def test_a_conditional_energy_without_its_condition_is_refused() -> None:
    conditional = MLPEnergy(2, (4,), condition_dimension=3)
    for energy in (conditional, conditional + GAUSSIAN):
        with pytest.raises(TypeError, match=r"call energy.given\(condition\) first"):
            mala().sample(energy, torch.zeros(3, 2), generator=generator())


def test_a_generator_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match=r"generator on meta, where x is, got one on cpu"):
        mala().sample(GAUSSIAN, torch.zeros(3, 2, device="meta"), generator=generator())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mala(-1), "expected steps >= 0, got -1"),
        (lambda: mala(2.5), "expected steps as a whole number, got 2.5"),
        (lambda: mala(step_size=0.0), "expected a positive step_size, got 0.0"),
        (lambda: mala(step_size=math.inf), "expected a positive step_size, got inf"),
        (lambda: mala(step_size=torch.tensor([0.1, -0.1])), "expected a positive step_size"),
        (lambda: mala(step_size=torch.tensor([0.1, math.inf])), "expected a positive step_size"),
        (lambda: mala(temperature=-1.0), "expected a finite temperature >= 0, got -1.0"),
        (lambda: mala(temperature=math.inf), "expected a finite temperature >= 0, got inf"),
        (lambda: mala(temperature=torch.tensor([1.0, -1.0])), "expected a finite temperature"),
        (
            lambda: mala(space=Box(-1.0, 1.0, "project"), adaptation=DualAveraging()),
            "expected no adaptation and no warm-up with walls='project'",
        ),
    ],
    ids=[
        "steps",
        "half a step",
        "step size",
        "infinite steps",
        "a step size",
        "an infinite step size",
        "temperature",
        "infinite temperature",
        "a temperature",
        "projecting walls",
    ],
)
def test_impossible_samplers_are_refused(make: Callable[[], Sampler], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "expected a finite temperature >= 0, got -1.0"),
        ({"temperature": torch.tensor(-1.0)}, "expected a finite temperature"),
        ({"gradient": "all"}, r"expected gradient in \('none', 'last', 'unroll'\), got 'all'"),
        ({"warmup": -5}, "expected warmup >= 0, got -5"),
        ({"warmup": 50.0}, "expected warmup as a whole number, got 50.0"),
    ],
    ids=["temperature", "a temperature", "gradient", "warmup", "part of a warmup"],
)
def test_impossible_calls_are_refused(options: dict[str, Number | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mala().sample(GAUSSIAN, torch.zeros(3, 2), generator=generator(), **options)


def test_walls_that_project_are_not_warmed_up_on() -> None:
    sampler = mala(space=Box(-torch.ones(2), torch.ones(2), "project"))
    with pytest.raises(ValueError, match="no warm-up with walls='project'"):
        sampler.sample(GAUSSIAN, n=4, generator=generator(), warmup=40)


def test_a_negative_number_of_chains_is_refused() -> None:
    with pytest.raises(ValueError, match="expected n >= 0, got -1"):
        mala().sample(GAUSSIAN, n=-1, generator=generator())


def test_kernels_of_different_coordinates_make_no_cycle() -> None:
    with pytest.raises(ValueError, match="of the same coordinates, got MALA, Gibbs"):
        Cycle([MALA(), Gibbs()])
    with pytest.raises(ValueError, match="real coordinates for Unbounded, got Gibbs"):
        Blocks(Product(Unbounded(1), Binary(2)), Gibbs(), Gibbs())


def test_a_kernel_of_another_space_is_refused() -> None:
    blocks = Blocks(Product(Unbounded(5), Categorical(1, 3)), MALA(), Gibbs())
    space = Product(Unbounded(2), Categorical(2, 3))
    with pytest.raises(ValueError, match="Blocks of the sampler's own Product, got one of another"):
        Sampler(blocks, space, steps=1)
    with pytest.raises(ValueError, match="Edits of the sampler's own Strings"):
        Sampler(Cycle([Edits(Strings(5, 9))]), Strings(3, 4), steps=1)
    Sampler(Edits(Strings(5, 9)), Strings(5, 9), steps=1)
    Sampler(Blocks(Product(Unbounded(2), Categorical(2, 3)), MALA(), Gibbs()), space, steps=1)


@pytest.mark.parametrize("shape", [(4,), (3, 1), (1, 1)])
def test_numbers_of_more_chains_than_there_are_are_refused(shape: tuple[int, ...]) -> None:
    x, number = torch.zeros(1, 2), torch.ones(shape)
    for options, name in (
        ({"temperature": number}, "temperature"),
        ({"step_size": number}, "step"),
    ):
        sampler = Sampler(ULA(), steps=1, **options)
        with pytest.raises(ValueError, match=rf"expected a {name}.* of shape \(1,\), got shape"):
            sampler.sample(GAUSSIAN, x, generator=generator())


@pytest.mark.parametrize("n", [3, 5])
def test_numbers_of_some_axes_of_the_batch_are_refused(n: int) -> None:
    """In a square batch it would be unclear which chains share a number."""
    sampler = Sampler(MALA(), Box(-1.0, 1.0, "tanh"), steps=1, temperature=torch.ones(5))
    with pytest.raises(ValueError, match=rf"temperature .* of shape \({n}, 5\).*got shape \(5,\)"):
        sampler.sample(GAUSSIAN, torch.zeros(n, 5, 2), generator=generator())


@pytest.mark.parametrize("shape", [(), (1,), (1, 5), (3, 1), (3, 5)])
def test_numbers_of_each_chain_may_be_shared(shape: tuple[int, ...]) -> None:
    sampler = Sampler(ULA(), steps=1, temperature=torch.full(shape, 0.5))
    x = torch.zeros(3, 5, 2)
    assert sampler.sample(GAUSSIAN, x, generator=generator()).x.shape == (3, 5, 2)


@pytest.mark.parametrize("gradient", ["last", "unroll"])
def test_gradients_of_discrete_moves_are_refused(gradient: Gradient) -> None:
    sampler = Sampler(BlockGibbs(), Binary(3), steps=2)
    with pytest.raises(ValueError, match=f"gradient='none' in Binary, .* got '{gradient}'"):
        sampler.sample(RBM(3, 2), n=4, generator=generator(), gradient=gradient)


def test_the_energy_that_is_no_rbm_is_named() -> None:
    sampler = Sampler(BlockGibbs(), Binary(3), steps=2)
    with pytest.raises(TypeError, match=r"expected an RBM in a binary space, .* got Weighted"):
        sampler.sample(RBM(3, 2) / 2.0, n=4, generator=generator())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 5, "thin": 2.5}, "expected thin as a whole number, got 2.5"),
        ({"draws": 0}, "expected draws >= 1, got 0"),
        ({"draws": 5, "warmup": -5}, "expected warmup >= 0, got -5"),
    ],
    ids=["thin", "draws", "warmup"],
)
def test_impossible_traces_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mala().trace(GAUSSIAN, torch.zeros(3, 2), generator=generator(), **options)


@pytest.mark.parametrize("kernel", [MALA, "mala", None])
def test_what_is_no_kernel_is_refused(kernel: object) -> None:
    with pytest.raises(TypeError, match="expected a kernel, such as MALA"):
        Sampler(kernel, steps=1)  # type: ignore[arg-type]


def test_an_energy_without_a_graph_is_named() -> None:
    sampler = Sampler(MALA(), steps=1)
    for function, error, message in (
        (lambda x: x.detach().square().sum(-1), ValueError, "that torch differentiates"),
        (lambda x: x.detach().numpy().sum(-1), TypeError, "returns a tensor, got ndarray"),
    ):
        with pytest.raises(error, match=message):
            sampler.sample(FunctionEnergy(function), torch.zeros(3, 2), generator=generator())
