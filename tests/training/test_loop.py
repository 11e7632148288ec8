"""The training loop: what a step does, what a file holds, what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from moons_problems import SPACE, Dropping, Scripted, energy, learned_generator, moons, pcd, same
from problems import generator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import Dataset

from ebrl import Chains, DualAveraging, Energy, FunctionEnergy, Sampler, networks, objectives
from ebrl.kernels import MALA, ULA
from ebrl.objectives import ContrastiveDivergence, Objective
from ebrl.training import (
    DivergedError,
    NonFiniteError,
    Order,
    RunningClip,
    Training,
    checkpoints_in,
    fit,
    newest_checkpoint,
    trainable_parameters,
)
from ebrl.training.loop import Metrics
from ebrl.vision.networks import SumEnergy


def test_the_example_works_as_written() -> None:
    space, stream, data = SPACE, generator(), moons()
    sampler = Sampler(MALA(), space, steps=5, step_size=0.05, adaptation=DualAveraging())
    energy = networks.MLPEnergy(dimension=2, hidden=(128, 128))
    objective = objectives.ContrastiveDivergence(sampler, Chains(10_000, space=space))
    fit(energy, data, objective, steps=5, generator=stream)
    draws = sampler.sample(energy, n=1000, generator=stream).x
    assert draws.shape == (1000, 2)
    assert draws.isfinite().all()


def test_two_moons_in_500_steps() -> None:
    # Where persistent chains with a fixed large step have diverged. The entropy of the data is
    # 1.83 nats, a Gaussian's fit 2.73. The model is one of the box: outside nothing holds it up.
    model, data = energy(0, 64, 64), moons(10_000)
    training = fit(
        model,
        data,
        objectives.persistent(SPACE, 1_000, 2),
        steps=500,
        generator=generator(),
        batch_size=128,
        learning_rate=3e-3,
        ema_decay=0.99,
    )
    assert code_length(model, data) < 2.6  # the last weights move by .1 from step to step
    assert code_length(training.average, data) < 2.4


@torch.no_grad()
def code_length(model: Energy, data: Tensor) -> float:
    """Return the mean of `-log p` of the data, in nats, by quadrature over the box."""
    axis = torch.linspace(-3, 3, 200)
    log_normalizer = torch.logsumexp(-model(torch.cartesian_prod(axis, axis)), 0)
    return float(model(data).mean() + log_normalizer + 2 * math.log(6 / 199))


@pytest.mark.parametrize(
    "objective",
    [
        objectives.EnergyDiscrepancy(0.25, 8),
        objectives.InfoNCE(objectives.NormalNoise(torch.zeros(2), torch.ones(2)), 8),
        objectives.SlicedScoreMatching(),
        pytest.param(objectives.ExactScoreMatching(), marks=pytest.mark.slow),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_two_moons_in_500_steps_without_chains(objective: Objective) -> None:
    model, data = energy(0, 64, 64), moons(10_000)
    fit(
        model, data, objective, steps=500, generator=generator(), batch_size=128,
        learning_rate=3e-3,
    )  # fmt: skip
    assert code_length(model, data) < 2.3


def test_each_row_comes_once_before_any_comes_again() -> None:
    order, stream = Order(10, 3), generator()
    for _ in range(4):
        epoch = torch.cat([order.next(stream) for _ in range(3)])
        assert len(epoch.unique()) == 9


def test_the_average_is_the_moving_one() -> None:
    model, decay, seen = energy(), 0.8, []

    def watch(training: Training, metrics: Metrics) -> None:
        seen.append(model.head.weight.detach().clone())

    training = fit(
        model, moons(), pcd(), steps=4, generator=generator(), ema_decay=decay, callbacks=[watch]
    )
    expected = seen[0]
    for weight in seen[1:]:
        expected = decay * expected + (1 - decay) * weight
    assert isinstance(training.average, networks.MLPEnergy)
    torch.testing.assert_close(training.average.head.weight.detach(), expected)
    assert fit(model, moons(), pcd(), steps=1, generator=generator()).average is model


class Normalised(Energy):
    """A network with the buffers of a spectral norm and of a batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        first = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 64))
        self.layers = nn.Sequential(first, nn.BatchNorm1d(64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.reshape(-1, 2)).view(x.shape[:-1])


def test_the_average_is_of_parameters_and_has_the_buffers_of_the_energy() -> None:
    model = Normalised()
    training = fit(
        model, moons(), objectives.EnergyDiscrepancy(0.5), steps=60, generator=generator(),
        ema_decay=0.9, learning_rate=3e-2,
    )  # fmt: skip
    average = training.average.eval()
    assert torch.linalg.matrix_norm(average.layers[0].weight, 2) < 1.1
    assert all(map(torch.equal, average.buffers(), model.buffers()))


def test_the_gradient_is_cut_to_its_limit() -> None:
    def moved(scale: float, clip: float | RunningClip | None) -> float:
        model = energy()
        before = nn.utils.parameters_to_vector(model.parameters()).detach()
        optimizer = torch.optim.SGD(model.parameters(), 1.0)
        fit(
            model, moons(), Scripted([scale]), steps=1, generator=generator(),
            optimizer=optimizer, clip=clip,
        )  # fmt: skip
        after = nn.utils.parameters_to_vector(model.parameters()).detach()
        return float((after - before).norm())

    assert moved(100.0, 0.5) == pytest.approx(0.5, rel=1e-4)
    free = moved(0.01, None)
    assert moved(0.01, 0.5) == pytest.approx(free, rel=1e-5)
    assert moved(100.0, None) > 5


def test_the_running_clip_follows_the_norms_it_let_through() -> None:
    clip = RunningClip(factor=2.0, decay=0.5)
    norms = [1.0, 100.0, 1.0]
    assert [float(clip(torch.tensor(norm))) for norm in norms] == [2.0, 2.0, 3.0]


def test_the_running_clip_outlives_a_gradient_of_zero() -> None:
    clip = RunningClip(factor=2.0, decay=0.5)
    assert [float(clip(torch.tensor(norm))) for norm in [0.0, 1.0]] == [0.0, 2.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf16"}, r"precision in \('float32', 'bfloat16'\), got 'bf16'"),
        ({"clip": -1.0}, "clip > 0, the largest norm, got -1.0"),
        ({"clip": math.nan}, "clip > 0, the largest norm, got nan"),
    ],
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(energy(), moons(), pcd(), steps=1, generator=generator(), **options)


def test_pictures_do_not_disturb_the_training(tmp_path: Path) -> None:
    ends = []
    for pictures in (None, Sampler(MALA(), SPACE, steps=2)):
        model = Dropping()
        torch.manual_seed(1)
        fit(
            model, moons(), pcd(), steps=12, generator=generator(), log_every=1,
            pictures=pictures, folder=tmp_path / str(pictures is None),
        )  # fmt: skip
        ends.append((nn.utils.parameters_to_vector(model.parameters()), torch.get_rng_state()))
    assert all(map(torch.equal, *ends))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_stops_before_the_weights(bad: float) -> None:
    model = energy()
    kept = []

    def keep(training: Training, metrics: Metrics) -> None:
        kept.append([p.detach().clone() for p in model.parameters()])

    with pytest.raises(DivergedError, match=r"step 3.*learning rate"):
        fit(
            model, moons(), Scripted([1.0, 1.0, bad]), steps=5, generator=generator(),
            callbacks=[keep],
        )  # fmt: skip
    assert all(map(torch.equal, model.parameters(), kept[-1]))


def test_a_loss_that_is_not_finite_saves_the_state_before_it(tmp_path: Path) -> None:
    def attempt(scales: list[float], **options: Any) -> None:
        fit(
            energy(), moons(), Scripted(scales), generator=generator(), checkpoint_every=2,
            folder=tmp_path, clip=RunningClip(), **options,
        )  # fmt: skip

    with pytest.raises(NonFiniteError, match=r"the state before that step is in .*05\.zip"):
        attempt([1.0] * 5 + [math.nan], steps=9)
    steps = [int(path.stem[-12:]) for path in checkpoints_in(tmp_path / "checkpoints")]
    assert steps == [5, 4, 2]
    attempt([1.0] * 2, steps=7, resume=True)
    assert all(weight.isfinite().all() for weight in newest_weights(tmp_path))


def newest_weights(folder: Path) -> list[Tensor]:
    return list(newest_checkpoint(folder / "checkpoints")[1]["energy"].values())


def test_weights_that_are_not_finite_overwrite_no_checkpoint(tmp_path: Path) -> None:
    def spoil(training: Training, metrics: Metrics) -> None:
        if training.step == 5:
            training.energy.head.weight.data.fill_(math.nan)

    def attempt(**options: Any) -> None:
        fit(
            energy(), moons(), Scripted([1.0] * 9), generator=generator(), callbacks=[spoil],
            **options,
        )  # fmt: skip

    with pytest.raises(NonFiniteError, match="loss is nan"):
        attempt(steps=9, checkpoint_every=2, folder=tmp_path)
    assert all(weight.isfinite().all() for weight in newest_weights(tmp_path))
    with pytest.raises(NonFiniteError, match=r"head\.weight holds NaN"):
        attempt(steps=5)


def test_an_energy_that_runs_away_is_stopped_while_it_is_finite() -> None:
    # Unadjusted Langevin with a step that the energy outgrows: the loss falls for ever.
    sampler = Sampler(ULA(), SPACE, steps=10, step_size=0.1)
    model = energy(0, 64, 64)
    objective = ContrastiveDivergence(sampler, Chains(512, SPACE))
    with pytest.raises(DivergedError, match=r"runs away.*let the step size adapt"):
        fit(model, moons(), objective, steps=2_000, generator=generator(), learning_rate=1e-2)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_mixed_precision_runs_and_keeps_the_weights() -> None:
    model = FunctionEnergy(Dropping())
    seen = []

    def watch(module: nn.Module, inputs: object, output: Tensor) -> None:
        seen.append(output.dtype)

    model.function.layers[0].register_forward_hook(watch)
    training = fit(model, moons(), pcd(), steps=3, generator=generator(), precision="bfloat16")
    assert seen[0] == torch.float32  # the check before work starts
    assert set(seen[1:]) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(p.isfinite().all() for p in model.parameters())
    assert training.objective.chains.positions.dtype == torch.float32
    fit(energy(), moons(), pcd(), steps=3, generator=generator(), precision="bfloat16")


def test_the_objectives_own_weights_are_trained_too() -> None:
    nce = objectives.NCE(objectives.NormalNoise.around(moons()), 2)
    fit(energy(), moons(), nce, steps=3, generator=generator())
    assert nce.log_normalizer.item() != 0


def test_an_optimiser_that_lacks_trainable_parameters_is_refused() -> None:
    model, nce = energy(), objectives.NCE(objectives.NormalNoise.around(moons()), 2)
    weights = list(model.parameters())
    for held, message in (
        (weights, "all 7 trainable parameters, got one without 1: make it of"),
        ([*weights[1:], nce.log_normalizer], "without 1: .*requires_grad_"),
    ):
        optimizer = torch.optim.SGD(held, 0.1)
        with pytest.raises(ValueError, match=message):
            fit(model, moons(), nce, steps=1, generator=generator(), optimizer=optimizer)
    before = weights[0].detach().clone()
    weights[0].requires_grad_(False)
    fit(model, moons(), nce, steps=1, generator=generator(), optimizer=optimizer)
    assert torch.equal(weights[0], before)


def test_what_has_an_optimiser_is_not_trained_twice() -> None:
    inner = learned_generator()
    outer = objectives.EnergyMatching(inner, contrast=0.1)
    model = energy()
    for objective in (outer, inner):
        found = {id(p) for p in trainable_parameters(model, objective)}
        assert found == {id(p) for p in model.parameters()}
    noise = objectives.NCE(objectives.NormalNoise.around(moons()), 2)
    both = trainable_parameters(model, objectives.EnergyMatching(noise))
    assert any(parameter is noise.log_normalizer for parameter in both)
    fit(model, moons(), outer, steps=3, generator=generator())
    steps = {int(state["step"]) for state in inner.optimizer.state.values()}
    assert steps == {3}


def test_the_objective_gives_an_energy_its_noise_levels() -> None:
    torch.manual_seed(0)
    images = torch.randn(32, 1, 8, 8, generator=generator())
    denoising = objectives.DenoisingScoreMatching(torch.tensor([0.1, 0.5, 1.0]))
    network = SumEnergy(1, (4,), blocks=1)
    fit(network, images, denoising, steps=3, batch_size=16, generator=generator())
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    model = networks.MLPEnergy(2, (8,), condition_dimension=1)
    recovery = objectives.RecoveryLikelihood(Sampler(MALA(), steps=2), [0.0, 0.3, 1.0])
    assert fit(model, moons(), recovery, steps=3, generator=generator()).step == 3


class Squares(Dataset):
    """A dataset of the other kind: one item at a time."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.full((2,), float(index)), torch.tensor([1.0])


def test_any_dataset_will_do() -> None:
    torch.manual_seed(0)
    model = networks.MLPEnergy(2, (8,), condition_dimension=1)
    sampler = Sampler(MALA(), steps=1)
    training = fit(
        model, Squares(), ContrastiveDivergence(sampler), steps=3, batch_size=50,
        generator=generator(),
    )  # fmt: skip
    assert training.step == 3


def test_tensorboard_has_curves_and_samples(tmp_path: Path) -> None:
    sampler = Sampler(MALA(), SPACE, steps=2)
    fit(
        energy(), moons(), pcd(), steps=20, generator=generator(), folder=tmp_path, log_every=2,
        pictures=sampler,
    )  # fmt: skip
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()
    assert {"loss", "gradient_norm", "energy_gap", "acceptance"} <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("loss")] == list(range(2, 21, 2))
    assert tags["images"] == ["data, samples, density"]


def test_recording_does_not_disturb_what_is_trained(tmp_path: Path) -> None:
    states = [
        fit(
            energy(), moons(), pcd(), steps=20, generator=generator(), folder=folder,
            log_every=2, pictures=Sampler(MALA(), SPACE, steps=2),
        ).state()
        for folder in (None, tmp_path)
    ]  # fmt: skip
    assert same(*states)


def test_pictures_need_a_space_that_draws_starting_points(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must know its event shape"):
        fit(
            energy(), moons(), pcd(), steps=1, generator=generator(), folder=tmp_path,
            pictures=Sampler(MALA(), steps=2),
        )  # fmt: skip


def test_a_training_in_inference_mode_is_the_same() -> None:
    weights = []
    for inference in (False, True):
        network = energy()
        with torch.inference_mode(inference):
            fit(
                network, 9 + moons(), objectives.EnergyDiscrepancy(), steps=3, generator=generator()
            )
        weights.append(torch.cat([each.flatten() for each in network.state_dict().values()]))
    assert torch.equal(*weights)
