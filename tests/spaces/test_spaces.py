"""Spaces: free coordinates, walls, and the law that each kind of wall gives."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Truncated, generator, total_variation
from torch import Tensor

from ebrl import Energy, FunctionEnergy, Gaussian, Sampler
from ebrl.constants import Constant
from ebrl.kernels import HMC, MALA, ULA, GradientDescent, IteratedSIR
from ebrl.spaces import Box, HalfLine, Unbounded, log_tanh_jacobian

WALLS = ["reject", "reflect", "tanh", "project"]
LOW, HIGH = torch.tensor([-1.0, 2.0]), torch.tensor([0.5, 10.0])
SKEWED = FunctionEnergy(lambda x: ((0.3 * x).exp() - x).sum(-1))

every_wall = pytest.mark.parametrize("walls", WALLS)
unit = st.floats(0.001, 0.999)
far = st.floats(-50, 50)


def pair(one: float, two: float) -> Tensor:
    return torch.tensor([one, two], dtype=torch.float64)


# Coordinates. float64 and the bounds' own magnitudes leave 1e-9 of room for rounding.


@every_wall
@given(unit, unit)
@settings(max_examples=50, deadline=None)
def test_there_and_back_inside_the_box(walls: str, one: float, two: float) -> None:
    box = Box(LOW, HIGH, walls)
    x = LOW + (HIGH - LOW) * pair(one, two)
    torch.testing.assert_close(box.from_free(box.to_free(x)), x, atol=1e-9, rtol=0)
    assert box.contains(x)


@pytest.mark.parametrize("walls", ["reflect", "tanh", "project"])
@given(far, far)
@settings(max_examples=50, deadline=None)
def test_free_coordinates_land_in_the_box(walls: str, one: float, two: float) -> None:
    box = Box(LOW, HIGH, walls)
    assert box.contains(box.from_free(pair(one, two)))


@given(far, far, st.integers(-3, 3))
@settings(max_examples=50, deadline=None)
def test_folding_is_even_at_the_walls_and_periodic(one: float, two: float, turns: int) -> None:
    box, u = Box(LOW, HIGH, "reflect"), pair(one, two)
    x = box.from_free(u)
    torch.testing.assert_close(box.from_free(2 * LOW - u), x, atol=1e-9, rtol=0)
    torch.testing.assert_close(box.from_free(2 * HIGH - u), x, atol=1e-9, rtol=0)
    torch.testing.assert_close(box.from_free(u + 2 * turns * (HIGH - LOW)), x, atol=1e-9, rtol=0)


def test_a_move_just_past_a_wall_is_mirrored() -> None:
    box = Box(LOW, HIGH, "reflect")
    u = torch.tensor([[0.6, 1.5], [-1.25, 10.25]])
    torch.testing.assert_close(box.from_free(u), torch.tensor([[0.4, 2.5], [-0.75, 9.75]]))


@pytest.mark.parametrize("walls", ["reflect", "tanh"])
def test_rounding_leaves_no_point_past_a_wall(walls: str) -> None:
    low = torch.randn(500, generator=generator())
    high = low + 3 * torch.rand(500, generator=generator()) + 0.01
    u = 10 * torch.randn(100, 500, generator=generator())
    box = Box(low, high, walls)
    assert box.contains(box.from_free(u)).all()


def test_rejection_leaves_coordinates_alone_and_the_outside_without_density() -> None:
    box = Box(LOW, HIGH)
    x = torch.tensor([[0.0, 3.0], [0.6, 3.0], [0.0, 1.9], [0.5, 10.0]])
    assert box.contains(x).tolist() == [True, False, False, True]
    assert torch.equal(box.from_free(x), x)
    value, _ = box.free(SKEWED, 1.0, 0.1).value_and_gradient(x)
    assert value.isposinf().tolist() == [False, True, True, False]
    torch.testing.assert_close(value[0], SKEWED(x[0]))


def test_tanh_keeps_starting_points_on_the_walls_finite() -> None:
    box = Box(LOW, HIGH, "tanh")
    for corner in (LOW, HIGH):
        for dtype in (torch.float32, torch.float64):
            free = box.to_free(corner.to(dtype))
            assert free.isfinite().all()
            torch.testing.assert_close(box.from_free(free), corner.to(dtype))


# Free energies.


@pytest.mark.parametrize("walls", ["reject", "reflect", "tanh"])
@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_free_gradients_are_those_of_autograd(walls: str, temperature: float) -> None:
    box = Box(LOW, HIGH, walls)
    inside = LOW + (HIGH - LOW) * torch.rand(20, 2, generator=generator(), dtype=torch.float64)
    u = (
        box.to_free(inside)
        if walls != "reflect"
        else 5 * torch.randn(20, 2, generator=generator(), dtype=torch.float64)
    )
    energy = box.free(SKEWED, temperature, 0.1)
    value, gradient = energy.value_and_gradient(u)
    u.requires_grad_()
    expected = energy(u)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), u)[0])


def test_the_slope_of_tanh_is_the_derivative_and_keeps_its_digits() -> None:
    u = torch.linspace(-3, 3, 25, dtype=torch.float64)
    step = 1e-6  # error step² / 6, rounding 1e-16 / step
    difference = (torch.tanh(u + step) - torch.tanh(u - step)) / (2 * step)
    torch.testing.assert_close(log_tanh_jacobian(u).exp(), difference, atol=1e-9, rtol=0)
    # Far out 1 - tanh² u rounds to 0, its logarithm is log 4 - 2 |u|.
    far_out = torch.tensor([-80.0, -30.0, 30.0, 80.0])
    torch.testing.assert_close(log_tanh_jacobian(far_out), math.log(4) - 2 * far_out.abs())


@pytest.mark.parametrize("temperature", [0.2, 1.0, 4.0])
def test_the_temperature_does_not_divide_the_jacobian(temperature: float) -> None:
    # ∫ exp(-F(u)/T) du over the line is ∫ exp(-E(x)/T) dx over the box, with all constants.
    low, high = -0.5, 2.5
    energy = FunctionEnergy(lambda x: (x.exp() - 2 * x).sum(-1))
    u = torch.linspace(-25, 25, 20_001, dtype=torch.float64)
    x = torch.linspace(low, high, 20_001, dtype=torch.float64)
    free = Box(low, high, "tanh").free(energy, temperature, 0.1)(u[:, None])
    free_integral = torch.trapezoid((-free / temperature).exp(), u)
    integral = torch.trapezoid((-energy(x[:, None]) / temperature).exp(), x)
    torch.testing.assert_close(free_integral, integral, rtol=1e-6, atol=0)


def test_walls_take_a_temperature_for_each_chain_with_candidates() -> None:
    temperature, u = torch.tensor([0.5, 1.0, 2.0]), torch.randn(3, 3, 2, generator=generator())
    box = Box(LOW, HIGH, "tanh")
    value, gradient = box.free(SKEWED, temperature, 0.1).value_and_gradient(u)
    for chain in range(3):
        alone = box.free(SKEWED, temperature[chain].item(), 0.1).value_and_gradient(u[chain])
        torch.testing.assert_close(value[chain], alone[0])
        torch.testing.assert_close(gradient[chain], alone[1])


@pytest.mark.parametrize("start", [[0.45, 3.0], [0.49, 9.9], [-0.9, 2.1]], ids=str)
def test_projected_descent_is_step_and_clamp(start: list[float]) -> None:
    energy, step_size = FunctionEnergy(lambda x: (x.square() - 9 * x).sum(-1)), 0.3
    x = torch.tensor([start])
    sampler = Sampler(
        GradientDescent(), space=Box(LOW, HIGH, "project"), steps=4, step_size=step_size
    )
    samples = sampler.sample(energy, x, generator=generator())
    for _ in range(4):
        x = (x - step_size * (2 * x - 9)).clamp(LOW, HIGH)
    torch.testing.assert_close(samples.x, x)
    torch.testing.assert_close(samples.energy, energy(x))


# Laws.

TARGET = Truncated()
BINS = 10  # of 20,000 perfect draws, the mean total variation is .009


def sample(walls: str, kernel: object, step_size: float, temperature: float = 1.0) -> Tensor:
    sampler = Sampler(
        kernel,
        space=Box(-1.0, 1.0, walls),
        steps=60,
        step_size=step_size,
        temperature=temperature,
    )
    return sampler.sample(TARGET.energy, generator=generator(), n=20_000).x


def histogram(x: Tensor) -> Tensor:
    return torch.histc(x.double(), BINS, -1, 1)


@pytest.mark.parametrize("walls", ["reject", "reflect", "tanh"])
@pytest.mark.parametrize(
    ("kernel", "step_size", "temperature"),
    [(MALA(), 0.05, 1.0), (MALA(), 0.2, 0.4), (HMC(3), 0.3, 2.5)],
    ids=["small steps", "cold", "hot"],
)
def test_walls_keep_the_truncated_law(
    walls: str, kernel: object, step_size: float, temperature: float
) -> None:
    x = sample(walls, kernel, step_size, temperature)
    assert ((x > -1) & (x < 1)).all()  # all inside and none on the walls
    assert total_variation(histogram(x), TARGET.probabilities(BINS, temperature)) < 0.02


def test_projection_is_biased_and_leaves_mass_on_the_wall() -> None:
    x = sample("project", ULA(), 0.05)
    assert ((x >= -1) & (x <= 1)).all()
    assert 0.15 < (x == 1).double().mean() < 0.3


def test_candidates_compete_within_walls_at_each_chains_temperature() -> None:
    class Wide:
        def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
            return 1.5 * torch.randn(*batch, 1, generator=generator)

        def log_density(self, x: Tensor) -> Tensor:
            return -Gaussian(0.0, 1.5, 1)(x)

    temperature = torch.tensor([0.4, 2.0]).repeat_interleave(10_000)
    sampler = Sampler(
        IteratedSIR(Wide(), 6), space=Box(-1.0, 1.0, "tanh"), steps=15, temperature=temperature
    )
    x = sampler.sample(TARGET.energy, generator=generator(), n=20_000).x
    for chains, one in zip(x.split(10_000), (0.4, 2.0), strict=True):
        assert total_variation(histogram(chains), TARGET.probabilities(BINS, one)) < 0.02


def test_each_dimension_has_its_own_walls() -> None:
    flat = FunctionEnergy(lambda x: 0 * x.sum(-1))
    for walls in ("reject", "reflect", "tanh"):
        sampler = Sampler(
            MALA(), space=Box(LOW, HIGH, walls), steps=20, step_size=0.3, temperature=0.5
        )
        x = sampler.sample(flat, generator=generator(), n=10_000).x
        assert x.shape == (10_000, 2)
        # Of a uniform law the mean's standard error is width / √(12 n), the middle is the mean.
        error = (x.mean(0) - (LOW + HIGH) / 2).abs() / ((HIGH - LOW) / (12 * 10_000) ** 0.5)
        assert (error < 4).all(), walls
        ratio = x.var(0) / ((HIGH - LOW).square() / 12)
        # The variance of a uniform's sample variance is (9/5 - 1) var² / n.
        assert ((ratio - 1).abs() < 4 * (0.8 / 10_000) ** 0.5).all(), walls


# Starting points and bad input.


def test_reference_draws_are_uniform_where_bounded_and_normal_where_not() -> None:
    box = Box(LOW, HIGH).reference((4000,), generator())
    assert box.shape == (4000, 2)
    assert Box(LOW, HIGH).contains(box).all()
    error = (box.mean(0) - (LOW + HIGH) / 2).abs() / ((HIGH - LOW) / (12 * 4000) ** 0.5)
    assert (error < 4).all()
    line = Unbounded(3, 8, 8).reference((5, 2), generator())
    assert line.shape == (5, 2, 3, 8, 8)
    assert line.std().item() == pytest.approx(1, abs=4 * (0.5 / line.numel()) ** 0.5)
    assert Box(-1, 1).reference((2,), generator()).dtype == torch.float32


def test_the_reference_knows_its_density() -> None:
    x = torch.randn(7, 2, 3, generator=generator())
    normal = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(
        Unbounded(2, 3).reference_log_density(x), normal.log_prob(x).sum((-2, -1))
    )
    box = Box(-1.0, torch.tensor([1.0, 2.0, 3.0]))
    x = torch.tensor([[0.0, 2.0, -1.0], [0.0, 2.1, 0.0]])
    expected = torch.tensor([-math.log(2 * 3 * 4), -math.inf])
    torch.testing.assert_close(box.reference_log_density(x), expected)
    same = Box(-1.0, 1.0).reference_log_density(torch.zeros(4, 5))
    torch.testing.assert_close(same, torch.full((4,), -5 * math.log(2)))


@pytest.mark.parametrize("walls", ["reject", "reflect", "tanh", "project"])
def test_the_slope_of_the_way_to_the_box_is_the_derivative(walls: str) -> None:
    box = Box(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 5.0]), walls)
    free = box.to_free(torch.tensor([0.3, 1.2], dtype=torch.float64))
    jacobian = torch.autograd.functional.jacobian(box.from_free, free)
    slope = torch.as_tensor(box.log_det_jacobian(free)).double()
    torch.testing.assert_close(slope, jacobian.det().abs().log())


def test_unbounded_changes_nothing_and_contains_what_is_finite() -> None:
    space, x = Unbounded(2), torch.tensor([[0.0, 1.0], [torch.inf, 0.0], [torch.nan, 0.0]])
    assert space.free(SKEWED, 2.0, 0.1) is SKEWED
    assert space.from_free(space.to_free(x)) is x
    assert space.contains(x).tolist() == [True, False, False]


def test_unbounded_without_a_shape_cannot_draw() -> None:
    with pytest.raises(ValueError, match="the space must know its event shape"):
        Unbounded().reference((3,), generator())


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (-math.inf, 1.0, "expected finite bounds, got .*: use Unbounded"),
        (0.0, math.nan, "expected finite bounds"),
        (1.0, 1.0, "expected low < high in every dimension"),
        (torch.zeros(2), torch.ones(3), "as many numbers in low as in high"),
        (torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0]), "in every dimension"),
    ],
    ids=["infinite", "nan", "empty", "other lengths", "one dimension swapped"],
)
def test_impossible_bounds_are_refused(low: float, high: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Box(low, high)


def test_an_int_seed_gets_an_answer() -> None:
    for draw in (Box(-torch.ones(2), 1.0).reference, Gaussian(0.0, 1.0, 2).sample):
        with pytest.raises(TypeError, match=r"expected a torch.Generator, got int: .*manual_seed"):
            draw((3,), 0)  # type: ignore[arg-type]


def test_unknown_walls_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected walls to be one of .* got 'clip'"):
        Box(-1.0, 1.0, walls="clip")


@every_wall
def test_a_box_holds_vectors_only(walls: str) -> None:
    class Image(Energy):
        event_ndim = 3

    with pytest.raises(ValueError, match=r"a box holds vectors: .* got event_ndim=3"):
        Box(-1.0, 1.0, walls).free(Image(), 1.0, 0.1)


def test_a_constant_is_moved_once() -> None:
    constant = Constant(torch.tensor([1.0, 2.0]))
    x = torch.zeros(3, dtype=torch.float64)
    assert constant.to(x).dtype == torch.float64
    assert constant.to(x) is constant.to(x)
    assert constant.to(x.float()) is constant.tensor


def test_a_bound_of_a_decimal_number_lies_in_the_space_in_every_precision() -> None:
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([[0.1], [0.7], [0.9]], dtype=dtype)
        assert Box(0.1, 0.9).contains(x).all()
        assert HalfLine(1, 0.7).contains(x).tolist() == [False, True, True]
        assert Box(0.7, 0.8).contains(x).tolist() == [False, True, False]
