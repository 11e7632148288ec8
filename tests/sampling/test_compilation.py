"""Compiled chains: the same as eager ones, and what cannot be compiled is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from problems import generator
from torch import Tensor

from ebrl import DualAveraging, Energy, FunctionEnergy, Gaussian, Sampler, Samples, programs
from ebrl.energies import GaussianMixture
from ebrl.kernels import GHMC, HMC, MALA, NUTS, SVGD, ULA, Kernel
from ebrl.networks import ConvEnergy, MLPEnergy
from ebrl.sampling import Trace, compilation, temperature_path
from ebrl.spaces import Box, Space, Unbounded, Walls

# Raised where torch loads its compiler, of itself.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")
GAUSSIAN = Gaussian(0.3, 1.0, 2)


def pair(kernel: Kernel, space: Space | None = None, **options: object) -> tuple[Sampler, Sampler]:
    """Return the eager and the compiled sampler."""
    options = {"steps": 5, "step_size": 0.2, **options}
    return Sampler(kernel, space, **options), Sampler(kernel, space, compile=True, **options)


def assert_same(eager: Samples | Trace, compiled: Samples | Trace, tolerance: float = 1e-5) -> None:
    for one, other in [(eager, compiled), (eager.info, compiled.info)]:
        for name, expected in one._asdict().items():
            if name not in ("info", "each"):
                found = getattr(other, name)
                torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


# The same chain. Each of these compiles, which costs its seconds.


Problem = Callable[[], tuple[Energy, Callable[[], Energy], Tensor]]


def critic() -> tuple[Energy, Callable[[], Energy], Tensor]:
    torch.manual_seed(0)
    network = MLPEnergy(2, (16, 16), condition_dimension=3, members=2)
    observations = torch.randn(4, 3)
    return network, lambda: network.given(observations, "max"), torch.randn(4, 8, 2)


def mixture() -> tuple[Energy, Callable[[], Energy], Tensor]:
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, 2.0]])
    energy = GaussianMixture(means, 0.7)
    return energy, lambda: energy, torch.randn(32, 2, generator=generator(1))


def crowd() -> tuple[Energy, Callable[[], Energy], Tensor]:
    means = torch.randn(20, 6, generator=generator(2))
    energy = GaussianMixture(means, 0.7)
    return energy, lambda: energy, torch.randn(32, 6, generator=generator(1))


def double_well() -> tuple[Energy, Callable[[], Energy], Tensor]:
    energy = FunctionEnergy(lambda x: (x.square() - 1).square().sum(-1))
    return energy, lambda: energy, torch.randn(32, 2, generator=generator(1))


@pytest.mark.parametrize(
    ("kernel", "problem"),
    [
        (MALA(), mixture),  # compiling takes most of a test's time: one chain by default
        pytest.param(ULA(), critic, marks=pytest.mark.slow),
        pytest.param(ULA(), crowd, marks=pytest.mark.slow),
        pytest.param(HMC(2), double_well, marks=pytest.mark.slow),
    ],
)
def test_a_compiled_chain_is_the_eager_one(
    kernel: Kernel, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "BLOCK", 2)  # 45 is no multiple of it; small graphs are quick
    energy, bind, x = problem()
    eager, compiled = pair(kernel, steps=45, step_size=0.05, temperature=0.5)
    before, streams = x.clone(), (generator(), generator())
    expected = eager.sample(bind(), x, generator=streams[0])
    found = compiled.sample(bind(), x, generator=streams[1])
    assert_same(expected, found, 1e-4)
    assert not torch.allclose(found.x, x, atol=0.1)
    assert torch.equal(x, before)
    assert not found.x.requires_grad
    assert torch.equal(streams[0].get_state(), streams[1].get_state())
    assert all(parameter.requires_grad for parameter in energy.parameters())
    # Other numbers, new weights, an energy bound anew: the same graphs.
    compiled.fixed_step_size = eager.fixed_step_size = 0.07
    with torch.no_grad():
        for weight in energy.parameters():
            weight.mul_(1.5)
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = compiled.sample(bind(), x, generator=streams[1], temperature=0.9)
    expected = eager.sample(bind(), x, generator=streams[0], temperature=0.9)
    assert_same(expected, found, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("walls", get_args(Walls))
def test_a_compiled_chain_in_a_box_is_the_eager_one(walls: Walls) -> None:
    space = Box(-1.0, torch.tensor([1.0, 2.0]), walls)
    eager, compiled = pair(MALA(), space, steps=3, step_size=0.3)
    x = space.reference((64,), generator(1))
    expected = eager.sample(GAUSSIAN, x, generator=generator())
    assert_same(expected, compiled.sample(GAUSSIAN, x, generator=generator()))
    expected = eager.sample(GAUSSIAN, x, generator=generator(), temperature=0.4)
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = compiled.sample(GAUSSIAN, x, generator=generator(), temperature=0.4)
    assert_same(expected, found)


@pytest.mark.slow
def test_a_compiled_path_and_its_last_step_are_the_eager_ones() -> None:
    _, bind, x = double_well()
    energy = bind()
    eager, compiled = pair(ULA(), step_size=0.02)
    path = temperature_path(energy, [2.0, 1.0, 0.5], steps=2, step_size=0.02)
    assert_same(
        eager.anneal(path, x, generator=generator()),
        compiled.anneal(path, x, generator=generator()),
    )
    x = x.requires_grad_()
    ends = [
        sampler.sample(energy, x, generator=generator(), gradient="last")
        for sampler in (eager, compiled)
    ]
    assert_same(*ends)
    traces = [one.trace(energy, x, draws=8, generator=generator()) for one in (eager, compiled)]
    assert_same(*traces)


@pytest.mark.slow
def test_a_compiled_chain_under_autocast_is_the_eager_one_as_far_as_bfloat16_goes() -> None:
    _, bind, x = critic()
    eager, compiled = pair(ULA(), steps=3, step_size=0.05)
    exact = eager.sample(bind(), x, generator=generator())
    with torch.autocast("cpu", torch.bfloat16):
        expected = eager.sample(bind(), x, generator=generator())
        found = compiled.sample(bind(), x, generator=generator())
    assert found.x.dtype == found.energy.dtype == torch.float32
    assert_same(expected, found, 1e-2)
    assert not torch.equal(expected.x, exact.x)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", [ULA(), MALA(torch.tensor(2.0)), HMC(3)])
def test_compiled_images_and_precision(kernel: Kernel, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    energy = ConvEnergy(1, (4, 8)).to(dtype)
    if isinstance(kernel, MALA):
        kernel = MALA(torch.full((1, 12, 12), 2.0))
    x = torch.randn(3, 1, 12, 12, dtype=dtype)
    eager, compiled = pair(kernel, steps=25, step_size=0.01)
    expected = eager.sample(energy, x, generator=generator())
    found = compiled.sample(energy, x, generator=generator())
    assert found.x.dtype == dtype
    assert_same(expected, found, 1e-4 if dtype == torch.float32 else 1e-9)


@pytest.mark.slow
def test_step_sizes_and_temperatures_of_each_chain_compile() -> None:
    energy, _, x = mixture()
    each = torch.linspace(0.01, 0.3, 32)
    eager, compiled = pair(MALA(), step_size=each, temperature=1 + each, steps=21)
    expected = eager.sample(energy, x, generator=generator())
    assert_same(expected, compiled.sample(energy, x, generator=generator()), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [MALA(), NUTS(4)], ids=["MALA", "NUTS"])
@pytest.mark.parametrize("shape", [(), (6,)], ids=["one step size", "one each"])
def test_a_compiled_chain_that_adapts_is_the_eager_one(
    kernel: Kernel, shape: tuple[int, ...]
) -> None:
    x = torch.randn(6, 2, generator=generator(2)).double()
    energy = Gaussian(0.3, torch.tensor([0.5, 2.0]), 2).double()
    eager, compiled = (
        Sampler(
            kernel,
            steps=30,
            step_size=torch.full(shape, 0.01, dtype=torch.float64),
            adaptation=DualAveraging(shape=shape),
            compile=compile,
        )
        for compile in (False, True)
    )
    for adapt in (True, True, False):  # it persists across calls, and is held in the last
        found = [
            one.sample(energy, x, generator=generator(), adapt=adapt) for one in (eager, compiled)
        ]
        assert_same(found[0], found[1], 1e-6)
        assert torch.allclose(torch.as_tensor(eager.step_size), torch.as_tensor(compiled.step_size))
    assert (torch.as_tensor(compiled.step_size) > 0.02).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "thin"), [(NUTS(5), 1), (HMC(3, jitter=0.3), 2)], ids=["NUTS", "HMC"]
)
def test_a_compiled_posterior_is_the_eager_one(kernel: Kernel, thin: int) -> None:
    x = torch.randn(6, 3, generator=generator(2)).double()
    energy = Gaussian(0.3, torch.tensor([0.5, 1.0, 2.0]), 3).double()
    found = [
        sampler.trace(energy, x, warmup=40, draws=50, thin=thin, generator=generator())
        for sampler in pair(kernel)
    ]
    assert_same(*found, tolerance=1e-6)
    torch.testing.assert_close(found[0].each.acceptance, found[1].each.acceptance)
    assert found[0].x.shape == (50, 6, 3)


# Refusals.


@pytest.mark.parametrize("kernel", [SVGD(), GHMC()])
def test_other_kernels_are_refused(kernel: Kernel) -> None:
    with pytest.raises(ValueError, match="expected one of ULA, MALA, HMC and NUTS to compile, got"):
        pair(kernel)


def test_unrolling_is_refused() -> None:
    x = torch.zeros(3, 2)
    _, compiled = pair(MALA())
    with pytest.raises(ValueError, match='gradient="unroll" differentiates an eager chain'):
        compiled.sample(GAUSSIAN, x, generator=generator(), gradient="unroll")


def test_a_missing_compiler_is_said_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match="no 'no-such-compiler': install g\\+\\+, name another"):
        pair(ULA())


def branching(x: Tensor) -> Tensor:
    return x.square().sum(-1) if x.sum() > 0 else x.abs().sum(-1)


def test_an_energy_that_is_no_graph_is_refused() -> None:
    _, compiled = pair(ULA(), Unbounded(2))
    with pytest.raises(RuntimeError, match="FunctionEnergy did not compile, Unsupported above"):
        compiled.sample(FunctionEnergy(branching), n=3, generator=generator())


def test_more_graphs_than_are_kept_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "KEPT", 0)
    _, compiled = pair(ULA(), Unbounded(2))
    with pytest.raises(RuntimeError, match="did not compile, FailOnRecompileLimitHit above"):
        compiled.sample(Gaussian(0.0, 1.0, 2) * 2.5, n=3, generator=generator())
