"""The sampler: what goes in, what comes out, and what is as before."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from problems import generator, within_standard_errors
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ebrl import DualAveraging, Energy, FunctionEnergy, Gaussian, Sampler
from ebrl.energies import Ising, Number
from ebrl.energies.evaluating import evaluating
from ebrl.kernels import (
    GHMC,
    HMC,
    MALA,
    NUTS,
    SVGD,
    ULA,
    Blocks,
    Cycle,
    Gibbs,
    GibbsWithGradients,
    GradientDescent,
    IteratedSIR,
    Kernel,
    Tempered,
    Underdamped,
)
from ebrl.networks import MLPEnergy
from ebrl.sampling import Stage
from ebrl.sampling.run import Run
from ebrl.spaces import (
    Affine,
    Binary,
    Box,
    Categorical,
    HalfLine,
    Product,
    Space,
    Strings,
    Unbounded,
)

GAUSSIAN = Gaussian(0.0, 1.0, 2)


def mala(steps: int = 5, **options: object) -> Sampler:
    return Sampler(MALA(), steps=steps, **{"step_size": 0.3, **options})


def test_the_readme_snippet_samples_the_truncated_gaussian() -> None:
    energy = FunctionEnergy(lambda x: 4 * (x - 0.8).square().sum(-1))
    sampler = Sampler(MALA(), space=Box(-1.0, 1.0), steps=200, step_size=0.05, temperature=0.5)
    samples = sampler.sample(
        energy, torch.zeros(4096, 1), generator=torch.Generator().manual_seed(0)
    )
    # N(.8, .25²) cut at z = (1 - .8) / .25 = .8: the lower wall, at z = -7.2, plays no part.
    z = torch.tensor(0.8, dtype=torch.float64)
    hazard = torch.exp(-(z**2) / 2) / (2 * torch.pi) ** 0.5 / torch.special.ndtr(z)
    mean, deviation = 0.8 - 0.25 * hazard, 0.25 * (1 - z * hazard - hazard**2).sqrt()
    assert abs(samples.x.double().mean() - mean) < 4 * deviation / 4096**0.5
    torch.testing.assert_close(samples.energy, energy(samples.x))
    assert samples.info.acceptance.shape == (4096,)
    assert 0.3 < samples.info.acceptance.mean() < 1
    assert (samples.info.diverged == 0).all()
    assert samples.info.step_size == 0.05


# Randomness.


def test_the_same_generator_gives_the_same_chain_and_no_other_stream_is_touched() -> None:
    x = torch.zeros(8, 2)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = mala().sample(GAUSSIAN, x, generator=generator(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    two = mala().sample(GAUSSIAN, x, generator=generator(3))
    other = mala().sample(GAUSSIAN, x, generator=generator(4))
    assert torch.equal(one.x, two.x)
    assert not torch.equal(one.x, other.x)


def test_a_run_is_its_steps_in_a_row() -> None:
    stream, x = generator(), torch.zeros(8, 2)
    whole = mala(6).sample(GAUSSIAN, x, generator=generator())
    half = mala(3).sample(GAUSSIAN, x, generator=stream)
    again = mala(3).sample(GAUSSIAN, half.x, generator=stream)
    torch.testing.assert_close(whole.x, again.x)
    torch.testing.assert_close(
        whole.info.acceptance, (half.info.acceptance + again.info.acceptance) / 2
    )


# What is as before.


class Damaged(Exception):
    pass


def noisy_network() -> nn.Sequential:
    torch.manual_seed(0)
    last = spectral_norm(nn.Linear(16, 1))  # whose power vectors move in training mode
    return nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), last, nn.Flatten(0))


@pytest.mark.parametrize("gradient", ["none", "last", "unroll"])
def test_evaluation_mode_while_sampling_and_the_former_mode_after(gradient: str) -> None:
    network = noisy_network()
    network[2].train(False)  # what was in evaluation mode stays there
    modes = [module.training for module in network.modules()]
    seen: list[bool] = []
    network.register_forward_pre_hook(
        lambda module, _: seen.append(any(part.training for part in module.modules()))
    )
    before = copy.deepcopy(network.state_dict())
    random_state = torch.get_rng_state()
    energy = FunctionEnergy(network)
    one = mala().sample(energy, torch.zeros(8, 2), generator=generator(), gradient=gradient)
    two = mala().sample(energy, torch.zeros(8, 2), generator=generator(), gradient=gradient)
    assert seen
    assert not any(seen)
    assert torch.equal(one.x, two.x)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in network.modules()] == modes
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_parameters_are_left_as_they_are_and_get_no_gradient() -> None:
    network = noisy_network()
    network[0].bias.requires_grad_(False)
    trainable = [parameter.requires_grad for parameter in network.parameters()]
    seen: list[bool] = []
    network.register_forward_pre_hook(
        lambda module, _: seen.append([p.requires_grad for p in module.parameters()] == trainable)
    )
    samples = mala().sample(FunctionEnergy(network), torch.zeros(8, 2), generator=generator())
    assert seen
    assert all(seen)
    assert all(parameter.grad is None for parameter in network.parameters())
    for tensor in (samples.x, samples.energy, *samples.info[:3]):
        assert tensor.grad_fn is None
        assert not tensor.requires_grad


def test_a_thread_may_train_the_network_that_others_sample() -> None:
    torch.manual_seed(0)
    network = MLPEnergy(2, (16,))

    def sample(seed: int) -> Tensor:
        return mala(50).sample(network, torch.zeros(8, 2), generator=generator(seed)).x

    def gradient(_: int) -> Tensor:
        return torch.autograd.grad(network(torch.ones(4, 2)).sum(), network.head.weight)[0]

    chains, expected = [sample(seed) for seed in range(3)], gradient(0)
    with ThreadPoolExecutor(4) as threads:
        sampled = threads.map(sample, range(3))
        for found in threads.map(gradient, range(200)):
            assert torch.equal(found, expected)
    for found, chain in zip(sampled, chains, strict=True):
        assert torch.equal(found, chain)
    assert network.training


def test_the_last_thread_to_finish_restores_the_mode() -> None:
    network = nn.Dropout()
    with evaluating(network):
        with evaluating(network):
            assert not network.training
        assert not network.training
    assert network.training


@pytest.mark.parametrize("gradient", ["none", "last", "unroll"])
def test_an_exception_leaves_the_energy_as_it_was(gradient: str) -> None:
    network = noisy_network()

    def broken(module: nn.Module, inputs: object) -> None:
        raise Damaged

    network[3].register_forward_pre_hook(broken)
    with pytest.raises(Damaged):
        mala().sample(
            FunctionEnergy(network), torch.zeros(8, 2), generator=generator(), gradient=gradient
        )
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_bound_energy_leaves_its_network_as_it_was() -> None:
    network = MLPEnergy(2, (8,), condition_dimension=3)
    bound = network.given(torch.randn(4, 3, generator=generator())) + GAUSSIAN
    samples = mala().sample(bound, torch.zeros(4, 5, 2), generator=generator())
    assert samples.x.shape == (4, 5, 2)
    assert not samples.x.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_closure_hides_its_network_but_no_graph_leaks() -> None:
    network = nn.Linear(2, 1)
    samples = mala().sample(
        FunctionEnergy(lambda x: network(x).square().squeeze(-1)),
        torch.zeros(4, 2),
        generator=generator(),
    )
    assert not any(part.requires_grad for part in (samples.x, samples.energy, *samples.info[:3]))
    assert all(weight.grad is None and weight.requires_grad for weight in network.parameters())


@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("space", [None, Box(-5.0, 5.0, "tanh")], ids=["unbounded", "tanh"])
def test_the_callers_x_is_never_modified(steps: int, space: Space | None) -> None:
    x = torch.zeros(8, 2, requires_grad=True)
    samples = mala(steps, space=space).sample(GAUSSIAN, x, generator=generator())
    assert torch.equal(x, torch.zeros(8, 2))
    assert x.requires_grad
    assert x.grad is None
    assert not samples.x.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("walls", ["reject", "reflect", "tanh", "project"])
def test_the_type_of_the_input_rules(dtype: torch.dtype, walls: str) -> None:
    adaptation = None if walls == "project" else DualAveraging(shape=(8,))
    sampler = mala(space=Box(-1.0, 1.0, walls), adaptation=adaptation)
    x, temperature = torch.zeros(8, 2, dtype=dtype), torch.full((8,), 0.5, dtype=torch.float64)
    samples = sampler.sample(GAUSSIAN, x, generator=generator(), temperature=temperature)
    assert samples.x.dtype == samples.energy.dtype == samples.info.acceptance.dtype == dtype


@pytest.mark.parametrize("returned", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "kernel",
    [MALA(), HMC(3), IteratedSIR(Gaussian(0.0, 2.0, 2), 4)],
    ids=["MALA", "HMC", "IteratedSIR"],
)
def test_acceptances_of_a_bfloat16_energy_are_in_float32(
    kernel: Kernel, returned: torch.dtype
) -> None:
    energy = FunctionEnergy(lambda x: (x.bfloat16().square() / 2).sum(-1).to(returned))
    sampler = Sampler(kernel, steps=20, step_size=0.4)
    x = torch.randn(5000, 2, generator=generator(1))
    samples = sampler.sample(energy, x, generator=generator())
    assert samples.x.dtype == samples.energy.dtype == samples.info.acceptance.dtype == torch.float32
    # bfloat16 has 256 numbers between 1 and 2: acceptances of its own would be multiples of 1/256.
    assert len(samples.info.acceptance.unique()) > 1000
    assert within_standard_errors(samples.x, torch.zeros(2), torch.ones(2), 4)


@pytest.mark.parametrize("bad", [torch.nan, -torch.inf, torch.inf], ids=str)
@pytest.mark.parametrize("kernel", [ULA(), MALA(), HMC(2)], ids=["ULA", "MALA", "HMC"])
def test_regions_without_an_energy_are_never_entered_and_counted(
    kernel: Kernel, bad: float
) -> None:
    energy = FunctionEnergy(lambda x: torch.where(x[..., 0] > 0.5, bad, -3 * x.sum(-1)))
    sampler = Sampler(kernel, steps=20, step_size=0.2)
    samples = sampler.sample(energy, torch.zeros(50, 2), generator=generator())
    assert (samples.x[:, 0] <= 0.5).all()
    assert samples.energy.isfinite().all()
    lost = samples.info.diverged.sum()
    assert lost == 0 if bad == torch.inf else lost > 50


class Slide(Energy):
    """An energy that stays finite however far x goes down."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(x.shape[:-1])

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self(x), torch.ones_like(x)


def test_no_guard_is_spared_that_infinitely_far_chains_need() -> None:
    sampler = Sampler(ULA(), steps=5, step_size=1e38)
    samples = sampler.sample(Slide(), torch.zeros(4, 1), generator=generator())
    assert samples.x.isfinite().all()
    assert (samples.info.diverged == 2).all()


@pytest.mark.parametrize("walls", ["reject", "reflect", "tanh", "project"])
def test_the_energy_reported_is_the_users(walls: str) -> None:
    sampler = mala(20, space=Box(-1.0, 1.0, walls), temperature=2.0)
    energy = FunctionEnergy(lambda x: (x - 2).square().sum(-1))
    samples = sampler.sample(energy, generator=generator(), n=50)
    torch.testing.assert_close(samples.energy, energy(samples.x), rtol=1e-4, atol=1e-4)


# Temperatures, step sizes and their adaptation.


def test_each_chain_has_its_temperature_and_step_size() -> None:
    temperature = torch.tensor([0.25, 1.0, 4.0]).repeat_interleave(4000)
    sampler = mala(30, step_size=0.5 * temperature, temperature=temperature)
    x = sampler.sample(GAUSSIAN, torch.zeros(12_000, 2), generator=generator()).x
    for chains, variance in zip(x.split(4000), (0.25, 1.0, 4.0), strict=True):
        # A variance of n Gaussians has the relative standard error √(2/n); mixing is complete.
        assert chains.var().item() == pytest.approx(variance, rel=4 * (2 / 8000) ** 0.5)


def test_the_temperature_of_a_call_comes_first() -> None:
    cold = mala(30, step_size=0.1).sample(
        GAUSSIAN, torch.zeros(500, 2), generator=generator(), temperature=0.01
    )
    assert cold.x.var().item() == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize(
    ("kernel", "target", "gain", "start"),
    [
        (MALA(), 0.574, 20.0, 1e-3),
        (MALA(), 0.574, 20.0, 30.0),
        (HMC(2), 0.651, 5.0, 1e-2),
        (HMC(2), 0.8, 5.0, 0.3),
    ],
    ids=["MALA from below", "MALA from above", "HMC", "HMC at .8"],
)
def test_adaptation_reaches_its_target(
    kernel: Kernel, target: float, gain: float, start: float
) -> None:
    # Two leapfrog steps: after more, orbits come back and acceptance rises again with the step.
    energy = Gaussian(0.0, torch.linspace(0.3, 1.5, 8), 8)
    sampler = Sampler(kernel, steps=150, step_size=start, adaptation=DualAveraging(target, gain))
    stream = generator()
    x = sampler.sample(energy, torch.randn(200, 8, generator=stream), generator=stream).x
    x = sampler.sample(energy, x, generator=stream).x
    samples = sampler.sample(energy, x, generator=stream, adapt=False)
    assert samples.info.acceptance.mean().item() == pytest.approx(target, abs=0.03)


def test_adaptation_persists_between_calls_and_in_the_state() -> None:
    x = torch.zeros(50, 2)
    sampler = mala(20, step_size=1e-3, adaptation=DualAveraging())
    first = sampler.sample(GAUSSIAN, x, generator=generator())
    reached = sampler.step_size.clone()
    assert reached > 0.01
    assert first.info.step_size > 0.01
    frozen = sampler.sample(GAUSSIAN, x, generator=generator(), adapt=False)
    assert sampler.step_size == reached
    assert frozen.info.step_size == reached
    restored = mala(20, step_size=1e-3, adaptation=DualAveraging())
    restored.load_state_dict(sampler.state_dict())
    one = sampler.sample(GAUSSIAN, x, generator=generator(5))
    two = restored.sample(GAUSSIAN, x, generator=generator(5))
    assert torch.equal(one.x, two.x)
    assert sampler.step_size == restored.step_size != reached


def test_adaptation_follows_an_energy_that_changes() -> None:
    sampler, stream = mala(50, adaptation=DualAveraging(memory=100)), generator()
    x = torch.zeros(200, 2)
    for _ in range(6):
        x = sampler.sample(GAUSSIAN, x, generator=stream).x
    wide = sampler.step_size.item()
    for _ in range(12):
        x = sampler.sample(GAUSSIAN / 0.01, x, generator=stream).x
    # A hundredth of the variance takes a hundredth of the step.
    assert sampler.step_size.item() == pytest.approx(wide / 100, rel=0.15)


def test_an_adaptation_belongs_to_one_sampler() -> None:
    adaptation = DualAveraging()
    mala(20, adaptation=adaptation).sample(GAUSSIAN, torch.zeros(9, 2), generator=generator())
    with pytest.raises(ValueError, match="an adaptation of the sampler's own"):
        mala(20, adaptation=adaptation)


@pytest.mark.parametrize(
    "kernel", [MALA(), HMC(2), Tempered(MALA(), [1.0, 2.0])], ids=["MALA", "HMC", "Tempered"]
)
def test_a_start_without_a_number_is_an_error(kernel: Kernel) -> None:
    sampler = Sampler(kernel, steps=5)
    no_energy = FunctionEnergy(lambda x: x.sum(-1).log())
    for start, value in ((-1.0, "nan"), (0.0, "-inf")):
        with pytest.raises(ValueError, match=f"the energy where every chain starts, got {value}"):
            sampler.sample(no_energy, torch.full((4, 2), start), generator=generator())
    no_gradient = FunctionEnergy(lambda x: x.square().sum(-1).sqrt())
    with pytest.raises(ValueError, match="a number for the gradient where every chain starts"):
        sampler.sample(no_gradient, torch.zeros(4, 2), generator=generator())


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


def test_reference_draws_have_the_type_of_the_weights() -> None:
    network = MLPEnergy(2, (8,)).double()
    assert mala(space=Unbounded(2)).sample(network, n=3, generator=generator()).x.dtype == (
        torch.float64
    )


def test_the_memory_layout_of_x_plays_no_part() -> None:
    x = torch.randn(2, 50, generator=generator()).T
    one = mala().sample(GAUSSIAN, x, generator=generator(1)).x
    assert torch.equal(one, mala().sample(GAUSSIAN, x.contiguous(), generator=generator(1)).x)


def test_what_a_kernel_reports_reaches_the_user() -> None:
    x = torch.randn(5, 2, generator=generator())
    short = Sampler(NUTS(3), steps=5, step_size=1e-4).sample(GAUSSIAN, x, generator=generator())
    assert (short.info.extra["saturated"] == 1).all()
    assert (short.info.extra["leapfrogs"] == 7).all()
    assert (short.info.extra["depth"] == 3).all()
    tempered = Sampler(Tempered(MALA(), [1.0, 3.0]), steps=5)
    assert tempered.sample(GAUSSIAN, x, generator=generator()).info.extra["swaps"].shape == (5, 1)


@pytest.mark.parametrize("wrap", [lambda k: Tempered(k, [1.0, 2.0]), lambda k: Cycle([MALA(), k])])
def test_kernels_within_kernels_report_what_they_report_alone(
    wrap: Callable[[Kernel], Kernel],
) -> None:
    x = torch.randn(5, 2, generator=generator())
    samples = Sampler(wrap(NUTS(3)), steps=5, step_size=1e-4).sample(
        GAUSSIAN, x, generator=generator()
    )
    assert (samples.info.extra["saturated"] == torch.ones(5)).all()


@pytest.mark.parametrize("target", [0.0, 1.0, 57.4])
def test_an_impossible_target_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match="expected a target acceptance between 0 and 1"):
        DualAveraging(target)


# Gradients through the run.


class Quartic(Energy):
    """`a x⁴ / 4 + x² / 2` with a to be learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (self.a * x.pow(4) / 4 + x.square() / 2).sum(-1)


def loss_after(sampler: Sampler, energy: Energy, x: Tensor, gradient: str) -> Tensor:
    samples = sampler.sample(energy, x, generator=generator(), gradient=gradient)
    return samples.x.sin().sum() + samples.energy.sum()


@pytest.mark.parametrize(
    "space",
    [
        None,
        Box(-2.0, 2.0, "tanh"),
        Box(-2.0, 2.0, "reflect"),
        HalfLine(2, -2.0),
        Affine(torch.zeros(2).double(), torch.tensor([[1.0, 0.5], [0.5, 2.0]]).double()),
    ],
    ids=["R", "tanh", "reflect", "half-line", "affine"],
)
@pytest.mark.parametrize(
    "kernel",
    [ULA(), MALA(), HMC(3), GHMC(2), Underdamped(), SVGD(), GradientDescent(0.5)],
    ids=["ULA", "MALA", "HMC", "GHMC", "Underdamped", "SVGD", "GradientDescent"],
)
def test_unrolled_gradients_are_finite_differences(kernel: Kernel, space: Space | None) -> None:
    sampler = Sampler(kernel, space=space, steps=4, step_size=0.1, temperature=0.5)
    energy = Quartic()
    x = torch.randn(6, 2, generator=generator(9), dtype=torch.float64).clamp(-1.9, 1.9)
    x.requires_grad_()
    loss_after(sampler, energy, x, "unroll").backward()
    # Central differences: the error is of order step², rounding of order 1e-16 / step.
    step = 1e-5

    def difference(nudge: Callable[[float], None]) -> float:
        losses = []
        for sign in (1, -2):
            nudge(sign * step)
            with torch.no_grad():
                losses.append(loss_after(sampler, energy, x, "none").item())
        nudge(step)
        return (losses[0] - losses[1]) / (2 * step)

    assert energy.a.grad.item() == pytest.approx(
        difference(lambda change: energy.a.data.add_(change)), rel=1e-5, abs=1e-7
    )
    assert x.grad[2, 1].item() == pytest.approx(
        difference(lambda change: x.data[2, 1].add_(change)), rel=1e-5, abs=1e-7
    )


def test_the_last_step_alone_has_a_graph() -> None:
    energy, x = Quartic(), torch.randn(6, 2, generator=generator(9), dtype=torch.float64)
    x.requires_grad_()
    sampler = Sampler(ULA(), steps=4, step_size=0.1)
    samples = sampler.sample(energy, x, generator=generator(), gradient="last")
    plain = sampler.sample(energy, x, generator=generator())
    torch.testing.assert_close(samples.x.detach(), plain.x)
    samples.x.sum().backward()
    before = Sampler(ULA(), steps=3, step_size=0.1).sample(energy, x, generator=generator()).x
    # x' = x - η (a x³ + x) + noise: dx'/da = -η x³.
    torch.testing.assert_close(energy.a.grad, -0.1 * before.pow(3).sum())
    assert x.grad is None


@pytest.mark.parametrize("gradient", ["none", "last", "unroll"])
def test_the_report_is_of_all_steps(gradient: str) -> None:
    stepped = mala(4, step_size=0.8)
    plain = stepped.sample(GAUSSIAN, torch.zeros(9, 2), generator=generator())
    samples = stepped.sample(GAUSSIAN, torch.zeros(9, 2), generator=generator(), gradient=gradient)
    torch.testing.assert_close(samples.info.acceptance, plain.info.acceptance)
    nothing = mala(0).sample(GAUSSIAN, torch.ones(9, 2), generator=generator(), gradient=gradient)
    assert torch.equal(nothing.x, torch.ones(9, 2))


def test_networks_with_gradients_of_their_own_are_unrolled_by_autograd() -> None:
    network = MLPEnergy(2, (8, 8)).double()
    sampler = Sampler(ULA(), steps=3, step_size=0.1)
    x = torch.zeros(5, 2, dtype=torch.float64)
    loss_after(sampler, network, x, "unroll").backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert network.layers[0].weight.grad.abs().max() > 0


def test_the_graph_of_an_unrolled_run_is_freed() -> None:
    energy, seen = Quartic(), []
    energy.register_forward_pre_hook(lambda module, inputs: seen.append(weakref.ref(inputs[0])))
    x = torch.zeros(5, 2, dtype=torch.float64)
    loss = loss_after(Sampler(ULA(), steps=4, step_size=0.01), energy, x, "unroll")
    kept = [place() for place in seen]
    assert all(place is not None for place in kept)
    del kept
    loss.backward()
    del loss, x
    assert [place() for place in seen] == [None] * 5


# Bad input.


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
        (lambda: mala(step_size=0.0), "expected a positive step_size, got 0.0"),
        (lambda: mala(step_size=torch.tensor([0.1, -0.1])), "expected a positive step_size"),
        (lambda: mala(temperature=-1.0), "expected temperature >= 0, got -1.0"),
        (lambda: mala(temperature=torch.tensor([1.0, -1.0])), "expected temperature >= 0"),
        (
            lambda: mala(space=Box(-1.0, 1.0, "project"), adaptation=DualAveraging()),
            "expected no adaptation with walls='project'",
        ),
    ],
    ids=["steps", "step size", "a step size", "temperature", "a temperature", "projecting walls"],
)
def test_impossible_samplers_are_refused(make: Callable[[], Sampler], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "expected temperature >= 0, got -1.0"),
        ({"gradient": "all"}, r"expected gradient in \('none', 'last', 'unroll'\), got 'all'"),
    ],
    ids=["temperature", "gradient"],
)
def test_impossible_calls_are_refused(options: dict[str, Number | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mala().sample(GAUSSIAN, torch.zeros(3, 2), generator=generator(), **options)


def test_the_report_is_on_the_device_of_the_chains() -> None:
    stage = Stage(Gaussian(0.0, 1.0, 2).to("meta"), steps=0, step_size=0.1)
    report = Run(MALA(), Unbounded(), stage, torch.zeros(3, 2, device="meta")).report()
    assert {report.acceptance.device.type, report.step_size.device.type} == {"meta"}


@pytest.mark.parametrize(
    ("kernel", "space"),
    [
        (MALA(), Binary(4)),
        (HMC(2), Categorical(2, 3)),
        (MALA(), Product(Unbounded(1), Binary(2))),
        (GibbsWithGradients(), Unbounded(2, 3)),
        (Cycle([MALA(), MALA()]), Binary(4)),
        (Tempered(MALA(), [1.0, 2.0]), Strings(3, 5)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_kernel_of_other_coordinates_is_refused(kernel: Kernel, space: Space) -> None:
    with pytest.raises(ValueError, match=r"expected a kernel of .* coordinates for"):
        Sampler(kernel, space, steps=1)


def test_kernels_of_different_coordinates_make_no_cycle() -> None:
    with pytest.raises(ValueError, match="of the same coordinates, got MALA, Gibbs"):
        Cycle([MALA(), Gibbs()])
    with pytest.raises(ValueError, match="real coordinates for Unbounded, got Gibbs"):
        Blocks(Product(Unbounded(1), Binary(2)), Gibbs(), Gibbs())


def test_thinning_without_draws_is_refused() -> None:
    sampler = Sampler(ULA(), steps=1)
    with pytest.raises(ValueError, match="expected draws with thin=7"):
        sampler.sample(Gaussian(0.0, 1.0, 1), torch.zeros(2, 1), generator=generator(), thin=7)


def test_no_chains_adapt_nothing() -> None:
    sampler = Sampler(MALA(), steps=3, step_size=0.2, adaptation=DualAveraging())
    samples = sampler.sample(Gaussian(0.0, 1.0, 2), torch.zeros(0, 2), generator=generator())
    assert samples.x.shape == (0, 2)
    assert float(sampler.step_size) == pytest.approx(0.2)


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


def test_a_sampler_says_what_it_is() -> None:
    assert repr(mala(5)) == "Sampler(MALA, Unbounded, steps=5, step_size=0.3, temperature=1.0)"
