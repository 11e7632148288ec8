"""The sampler: what goes in, what comes out, and what is as before."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from problems import generator, within_standard_errors
from sampler_problems import GAUSSIAN, mala
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ebrl import DualAveraging, Energy, FunctionEnergy, Gaussian, Mixture, Sampler
from ebrl.energies import GaussianMixture
from ebrl.energies.evaluating import evaluating
from ebrl.kernels import (
    HMC,
    MALA,
    NUTS,
    ULA,
    Cycle,
    GibbsWithGradients,
    IteratedSIR,
    Kernel,
    Tempered,
)
from ebrl.networks import MLPEnergy
from ebrl.sampling import Stage
from ebrl.sampling.run import Run
from ebrl.spaces import (
    Binary,
    Box,
    Categorical,
    HalfLine,
    Product,
    Space,
    Strings,
    Unbounded,
)


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


DOUBLE = Gaussian(0.0, 1.0, 2).double()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kernel", [ULA(), MALA(), HMC(3), NUTS(3)], ids=lambda k: type(k).__name__)
@pytest.mark.parametrize(
    "energy",
    [
        Mixture([GAUSSIAN, GAUSSIAN], torch.tensor([0.3, 0.7], dtype=torch.float64)),
        torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64) * GAUSSIAN,
        GaussianMixture([[0.0, 0.0]], 1.0, torch.ones(1, dtype=torch.float64)),
        DOUBLE,
    ],
    ids=["mixture", "weighted", "gaussian mixture", "double"],
)
def test_weights_of_another_type_leave_chains_their_own(
    energy: Energy, kernel: Kernel, dtype: torch.dtype
) -> None:
    x = torch.full((3, 2), 0.5, dtype=dtype)
    reflecting = [] if isinstance(kernel, NUTS) else [Box(-9.0, 9.0, "reflect")]
    for space in (Unbounded(), Box(-9.0, 9.0, "tanh"), HalfLine(2), *reflecting):
        samples = Sampler(kernel, space, steps=3).sample(energy, x, generator=generator())
        assert samples.x.dtype == dtype
        assert samples.energy.dtype == torch.promote_types(dtype, torch.float32)


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


def test_a_sampler_says_what_it_is() -> None:
    assert repr(mala(5)) == "Sampler(MALA, Unbounded, steps=5, step_size=0.3, temperature=1.0)"
