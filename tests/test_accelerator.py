"""On a CUDA device: the same results as on the CPU, and no step that waits for the host."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ebrl import Chains, DualAveraging, Energy, Gaussian, Sampler, estimators, objectives
from ebrl.agents import EnergyActorCritic, SoftQ
from ebrl.agents.energy_actor_critic import UpdateNoise
from ebrl.agents.population import Population
from ebrl.agents.soft_agent import Due, Transitions
from ebrl.energies import GaussianMixture, Ising
from ebrl.kernels import (
    DMALA,
    DULA,
    GHMC,
    HMC,
    MALA,
    SVGD,
    ULA,
    Cycle,
    Gibbs,
    GibbsWithGradients,
    GradientDescent,
    IndependenceMetropolis,
    IteratedSIR,
    Kernel,
    ReferenceProposal,
    Tempered,
    Underdamped,
)
from ebrl.networks import ConvEnergy, MLPEnergy
from ebrl.networks.mlp import Reduction
from ebrl.sequences.energies import CausalEnergy
from ebrl.sequences.objectives import HybridLikelihood
from ebrl.sequences.transformer import Transformer
from ebrl.spaces import Binary, Box, Space, Unbounded
from ebrl.training import RunningClip, fit, load_average
from ebrl.training.muon import Muon
from ebrl.training.ragged import Ragged
from ebrl.vision import CorrelatedNoise, Denoising, GradientStepEnergy, denoise

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated"),
]
SQUARE = Box(-4 * torch.ones(2), 4 * torch.ones(2))
KERNELS: dict[str, Kernel] = {
    "ULA": ULA(),
    "MALA": MALA(),
    "HMC": HMC(3),
    "GHMC": GHMC(2),
    "underdamped": Underdamped(),
    "descent": GradientDescent(0.5),
    "SVGD": SVGD(),
    "SIR": IteratedSIR(ReferenceProposal(Unbounded(2)), 8),
    "independence": IndependenceMetropolis(ReferenceProposal(Unbounded(2))),
    "tempered": Tempered(MALA(), [1.0, 2.0, 4.0]),
    "cycle": Cycle([IndependenceMetropolis(ReferenceProposal(Unbounded(2))), MALA()]),
}
DISCRETE: dict[str, Kernel] = {
    "Gibbs": Gibbs(),
    "Gibbs with gradients": GibbsWithGradients(),
    "DULA": DULA(),
    "DMALA": DMALA(),
}


class Images(Dataset[Tensor]):
    """Rows that are made one by one, as those of a folder."""

    def __init__(self, rows: Tensor):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return self.rows[index]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator("cuda").manual_seed(seed)


def points(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), device="cuda")


def network(members: int = 1, condition: int = 3) -> MLPEnergy:
    torch.manual_seed(0)
    return MLPEnergy(2, (32, 32), condition_dimension=condition, members=members).cuda()


def without_waiting(call: Callable[[], object]) -> None:
    """Call twice, the second time with an error where the host waits for the device."""
    call()  # the first use of the libraries waits
    try:
        with warnings.catch_warnings():  # torch says that it does not see every wait
            warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
            torch.cuda.set_sync_debug_mode("error")
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("space", [Unbounded(2), Box(-3.0, 3.0, "tanh")], ids=["free", "tanh"])
def test_no_run_of_chains_waits_for_the_host(name: str, space: Space) -> None:
    energy = Gaussian(0.0, 1.0, 2).cuda()
    sampler = Sampler(KERNELS[name], space, steps=3, step_size=0.1)
    x, stream = points(64, 2).tanh(), generator()
    without_waiting(lambda: sampler.sample(energy, x, generator=stream))


@pytest.mark.parametrize("name", DISCRETE)
def test_no_run_of_discrete_chains_waits_for_the_host(name: str) -> None:
    energy, stream = Ising(0.2 * torch.ones(5, 5).fill_diagonal_(0)).cuda(), generator()
    sampler = Sampler(DISCRETE[name], Binary(5), steps=3, step_size=0.1)
    x = torch.zeros(16, 5, device="cuda")
    without_waiting(lambda: sampler.sample(energy, x, generator=stream))


@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("members", [1, 2])
def test_no_run_on_networks_waits_for_the_host(members: int, reduction: Reduction) -> None:
    net, condition, x, stream = network(members), points(8, 3), points(8, 4, 2), generator()
    sampler = Sampler(MALA(), Unbounded(2), steps=3, adaptation=DualAveraging())
    without_waiting(lambda: sampler.sample(net.given(condition, reduction), x, generator=stream))
    chains = Chains(64, Unbounded(2)).cuda()
    without_waiting(lambda: chains.draw(32, stream))


@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("members", [1, 2])
def test_gradients_are_those_of_the_cpu(members: int, reduction: Reduction) -> None:
    net, condition, x = network(members), points(8, 3), points(8, 4, 2)
    here = net.given(condition, reduction).value_and_gradient(x)
    there = net.cpu().given(condition.cpu(), reduction).value_and_gradient(x.cpu())
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one.cpu(), other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kernel", [MALA(), HMC(3)], ids=["MALA", "HMC"])
def test_chains_have_the_right_law(kernel: Kernel) -> None:
    n, energy = 20_000, Gaussian(torch.tensor([1.0, -1.0]), torch.tensor([0.5, 2.0]), 2).cuda()
    sampler = Sampler(kernel, steps=300, step_size=0.3, temperature=2.0)
    x = sampler.sample(energy, points(n, 2), generator=generator(1)).x
    variance = 2.0 * energy.variance
    assert ((x.mean(0) - energy.mean).abs() < 4 * (variance / n).sqrt()).all()
    assert ((x.var(0) / variance - 1).abs() < 4 * (2 / n) ** 0.5).all()


@pytest.mark.parametrize("kernel", [ULA(), MALA(), HMC(2)], ids=lambda each: type(each).__name__)
def test_a_compiled_chain_is_the_eager_one(kernel: Kernel) -> None:
    net, condition, x = network(2), points(8, 3), points(8, 4, 2)
    for energy, start in [
        (net.given(condition, "max"), x),
        (Gaussian(0.0, 1.0, 2).cuda(), x[:, 0]),
    ]:
        eager, compiled = (
            Sampler(kernel, steps=5, step_size=0.05, compile=compile).sample(
                energy, start, generator=generator(3)
            )
            for compile in (False, True)
        )
        torch.testing.assert_close(compiled.x, eager.x, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(compiled.energy, eager.energy, atol=1e-3, rtol=1e-3)


def test_images_and_their_gradients() -> None:
    torch.manual_seed(0)
    energy, x = ConvEnergy(1, (8, 16)), torch.rand(4, 1, 16, 16)
    expected = energy.value_and_gradient(x)
    found = energy.cuda().value_and_gradient(x.cuda())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, atol=1e-3, rtol=1e-2)


def test_the_log_normalizer_is_bracketed() -> None:
    energy = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), 0.5).cuda()
    bounds = estimators.log_normalizer(energy, space=SQUARE, generator=generator())
    low, high = bounds.interval(4.0)
    assert low < 0.0 < high  # a target's density is normalised


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("on_host", [False, True])
def test_a_training_resumes_exactly(precision: str, on_host: bool, tmp_path: Path) -> None:
    data = points(512, 2).cpu() if on_host else points(512, 2)

    def train(steps: int, folder: Path, resume: bool = False) -> list[Tensor]:
        torch.manual_seed(0)
        energy = MLPEnergy(2, (32, 32)).cuda()
        objective = objectives.persistent(SQUARE, chains=512).cuda()
        options = {"folder": folder, "resume": resume, "checkpoint_every": 10, "ema_decay": 0.9}
        training = fit(
            energy,
            data,
            objective,
            steps=steps,
            generator=generator(),
            precision=precision,
            clip=1.0,
            **options,
        )
        return [*energy.parameters(), *training.average.parameters()]

    whole = train(20, tmp_path / "whole")
    train(10, tmp_path / "parts")
    resumed = train(20, tmp_path / "parts", resume=True)
    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(one, other)


def test_dropout_resumes_exactly(tmp_path: Path) -> None:
    class Noisy(Energy):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.5), nn.Linear(16, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x).squeeze(-1)

    def train(steps: int, folder: Path, resume: bool = False) -> list[Tensor]:
        torch.manual_seed(0)
        energy = Noisy().cuda()
        objective = objectives.DenoisingScoreMatching(0.5)
        options = {"folder": folder, "resume": resume, "checkpoint_every": 5}
        fit(energy, points(512, 2), objective, steps=steps, generator=generator(), **options)
        return list(energy.parameters())

    whole = train(10, tmp_path / "whole")
    train(5, tmp_path / "parts")
    torch.manual_seed(7)
    resumed = train(10, tmp_path / "parts", resume=True)
    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(one, other)


def test_a_language_trains_there_and_its_checkpoint_is_read_on_the_cpu(tmp_path: Path) -> None:
    def language() -> CausalEnergy:
        torch.manual_seed(0)
        return CausalEnergy(Transformer(64, 32, layers=2, heads=2, hidden=48, dropout=0.1))

    energy = language().cuda()
    source = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, 64, (n,), generator=source) for n in range(2, 42)]
    training = fit(
        energy,
        Ragged(rows),
        HybridLikelihood(),
        steps=6,
        generator=generator(),
        batch_size=16,
        optimizer=Muon.of(energy),
        ema_decay=0.9,
        clip=1.0,
        precision="bfloat16",
        folder=tmp_path,
    )
    here = language()
    assert load_average(here, tmp_path / "checkpoints") == 6
    for one, other in zip(here.parameters(), training.average.parameters(), strict=True):
        assert torch.equal(one, other.cpu())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_denoiser_trains_there_and_its_checkpoint_is_read_on_the_cpu(
    workers: int, tmp_path: Path
) -> None:
    def denoiser() -> GradientStepEnergy:
        torch.manual_seed(0)
        return GradientStepEnergy(3, (8, 16), 1)

    objective = Denoising(CorrelatedNoise(), plain=2).cuda()
    training = fit(
        denoiser().cuda(),
        Images(torch.rand(16, 3, 16, 16)),
        objective,
        steps=4,
        generator=generator(),
        batch_size=4,
        ema_decay=0.9,
        clip=RunningClip(1.5),
        precision="bfloat16",
        workers=workers,
        folder=tmp_path,
    )
    assert objective.taken.device.type == "cpu"  # read in each step
    here = denoiser()
    assert load_average(here, tmp_path / "checkpoints") == 4
    for one, other in zip(here.parameters(), training.average.parameters(), strict=True):
        assert torch.equal(one, other.cpu())


@pytest.mark.parametrize("agent", [EnergyActorCritic, SoftQ], ids=["actor-critic", "soft Q"])
def test_agents_learn_act_and_come_back(agent: type, tmp_path: Path) -> None:
    task = "Pendulum-v1" if agent is EnergyActorCritic else "CartPole-v1"
    options = {"learning_starts": 20, "buffer_size": 500, "batch_size": 32, "seed": 0}
    model = agent("MlpPolicy", task, device="cuda", **options).learn(60)
    observation = np.zeros(model.observation_space.shape, np.float32)
    assert model.sample_actions(observation, 7).shape[0] == 7
    model.save(tmp_path / "agent.zip")
    for device in ("cuda", "cpu"):
        again = agent.load(tmp_path / "agent.zip", device=device)
        for one, other in zip(model.policy.parameters(), again.policy.parameters(), strict=True):
            assert torch.equal(one.cpu(), other.cpu())
        expected = model.predict(observation, deterministic=True)[0]
        found = again.predict(observation, deterministic=True)[0]
        if device == "cuda":
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_population_is_that_of_the_cpu_and_waits_for_nothing() -> None:
    agents = [
        EnergyActorCritic("MlpPolicy", "Pendulum-v1", seed=seed, device="cpu") for seed in range(2)
    ]
    here, there = Population(agents, "cpu"), Population(agents, "cuda")
    source = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(2, 64, *shape, generator=source)

    batch = Transitions(normal(3), normal(1).tanh(), normal(3), normal(), 0.99 + 0 * normal())
    noise = UpdateNoise(normal(1, 1), normal(1, 1), torch.rand(2, 64, 1, generator=source))
    due = Due(policy=True, target=True)
    report = here.update(batch, noise, due)
    batch_there = Transitions(*(each.cuda() for each in batch))
    noise_there = UpdateNoise(*(each.cuda() for each in noise))
    found = there.update(batch_there, noise_there, due)
    torch.testing.assert_close(found.critic_loss.cpu(), report.critic_loss, rtol=1e-3, atol=1e-3)
    without_waiting(lambda: there.update(batch_there, noise_there, due))
    stream, observations = generator(), points(2, 3)
    without_waiting(lambda: there.act(observations, stream))


def test_photographs_stay_on_their_device() -> None:
    image = torch.rand(1, 1, 32, 32, generator=generator(), device="cuda")
    found = denoise(image, 0.1)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), denoise(image.cpu(), 0.1), atol=1e-2, rtol=0)
