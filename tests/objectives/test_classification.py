"""Cross-entropy, which leaves the density of x free, and what pins it beside the label's law."""

from __future__ import annotations

import math

import pytest
import torch
from problems import generator
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from ebrl import ClassifierEnergy, Energy, FunctionEnergy, Sampler, schedules
from ebrl.kernels import MALA
from ebrl.objectives import (
    ContrastiveDivergence,
    CrossEntropy,
    DenoisingScoreMatching,
    ExactScoreMatching,
    JointClassification,
    Objective,
    persistent,
)
from ebrl.spaces import Box
from ebrl.training import fit

# Two classes N(±CENTRE, 1) in the plane, of shares .7 and .3: everything is known.
CENTRE, SHARES = torch.tensor([1.0, -0.5]), torch.tensor([0.7, 0.3])
MEANS = torch.stack([CENTRE, -CENTRE])


def draw(n: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
    y = (torch.rand(n, generator=stream) > SHARES[0]).long()
    return MEANS[y] + torch.randn(n, 2, generator=stream), y


def log_joint(x: Tensor, variance: float = 1.0) -> Tensor:
    """Return `log p(x, y)`, `(n, 2)`, where x was blurred to this variance."""
    squared = (x.unsqueeze(1) - MEANS).square().sum(-1)
    return SHARES.log() - 0.5 * squared / variance - math.log(2 * math.pi * variance)


class Quadratic(nn.Module):
    """`slope_y · x + bias_y - ½ curvature |x|²`: the family of the truth."""

    def __init__(self, curvature: float):
        super().__init__()
        self.slope = nn.Parameter(MEANS.clone())
        self.bias = nn.Parameter(SHARES.log())
        self.curvature = nn.Parameter(torch.tensor(curvature))

    def forward(self, x: Tensor) -> Tensor:
        squared = x.square().sum(-1, keepdim=True)
        return x @ self.slope.T + self.bias - 0.5 * self.curvature * squared


def quadratic(curvature: float = 1.0) -> ClassifierEnergy:
    return ClassifierEnergy(Quadratic(curvature), event_ndim=1)


def jem() -> JointClassification:
    """Chains of a few steps from the data: unbiased where the energy is the data's."""
    return JointClassification(ContrastiveDivergence(Sampler(MALA(), steps=5, step_size=0.3)))


JOINT = {"JEM": jem, "score matching": lambda: JointClassification(ExactScoreMatching(), 0.5)}


def gradients(objective: Objective, energy: Energy, calls: int = 60) -> tuple[Tensor, Tensor]:
    """Return the mean gradient of the parameters over batches, and its standard error."""
    stream, rows = generator(1), []
    for _ in range(calls):
        loss = objective(energy, *draw(500, stream), generator=stream).loss
        parts = torch.autograd.grad(loss, list(energy.parameters()))
        rows.append(torch.cat([part.flatten() for part in parts]))
    table = torch.stack(rows)
    return table.mean(0), table.std(0) / calls**0.5


@pytest.mark.parametrize("name", JOINT)
def test_the_truth_is_where_joint_training_rests(name: str) -> None:
    mean, error = gradients(JOINT[name](), quadratic())
    assert (mean.abs() < 4 * error + 1e-6).all(), (mean, error)


@pytest.mark.parametrize("name", JOINT)
def test_cross_entropy_is_blind_to_the_density_that_joint_training_sees(name: str) -> None:
    wrong = quadratic(curvature=0.5)
    mean, _ = gradients(CrossEntropy(), wrong, calls=2)
    torch.testing.assert_close(mean[-1], torch.tensor(0.0), atol=1e-6, rtol=0)
    mean, error = gradients(JOINT[name](), wrong, calls=20)
    assert mean[-1] < -20 * error[-1]  # descent raises the curvature towards 1


@pytest.mark.parametrize("name", JOINT)
def test_joint_training_recovers_the_whole_law(name: str) -> None:
    energy = quadratic(curvature=0.4)
    data = TensorDataset(*draw(20_000, generator(2)))
    fit(
        energy,
        data,
        JOINT[name](),
        steps=200,
        batch_size=500,
        learning_rate=0.03,
        schedule=schedules.cosine,
        generator=generator(3),
    )
    x, _ = draw(2_000, generator(4))
    with torch.no_grad():
        logits, truth = energy.logits(x), log_joint(x)
    torch.testing.assert_close(logits.softmax(1), truth.softmax(1), atol=0.05, rtol=0)
    gap = -energy(x) - truth.logsumexp(1)  # of log densities, up to a constant
    assert gap.std() < 0.05


def network() -> ClassifierEnergy:
    torch.manual_seed(0)
    layers = (nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 2))
    return ClassifierEnergy(nn.Sequential(*layers), event_ndim=1)


def test_a_network_learns_the_law_of_the_label_and_the_blurred_density() -> None:
    sigma = 0.5
    data = TensorDataset(*draw(20_000, generator(5)))
    x, _ = draw(2_000, generator(6))
    off = {}
    joint = JointClassification(DenoisingScoreMatching(sigma))
    for name, objective in {"joint": joint, "alone": CrossEntropy()}.items():
        energy = fit(
            network(),
            data,
            objective,
            steps=400,
            learning_rate=1e-2,
            schedule=schedules.cosine,
            generator=generator(7),
        ).average
        with torch.no_grad():
            logits = energy.logits(x)  # type: ignore[operator]
        law = log_joint(x).softmax(1)
        assert (logits.softmax(1) - law).abs().mean() < 0.03
        off[name] = (logits.logsumexp(1) - log_joint(x, 1 + sigma**2).logsumexp(1)).std()
    assert off["joint"] < 0.1
    assert off["alone"] > 0.5  # nothing told it


def test_the_parts_add_up() -> None:
    energy, (x, y) = quadratic(0.7), draw(50, generator(8))
    joint = JointClassification(DenoisingScoreMatching(0.3), weight=0.2)
    loss, metrics = joint(energy, x, y, generator=generator(9))
    law = CrossEntropy()(energy, x, y, generator=generator())
    marginal = FunctionEnergy(lambda x: -energy.logits(x).logsumexp(-1))
    density = DenoisingScoreMatching(0.3)(marginal, x, generator=generator(9)).loss
    torch.testing.assert_close(loss, law.loss + 0.2 * density)
    torch.testing.assert_close(metrics["density_loss"], density.detach())
    torch.testing.assert_close(metrics["cross_entropy"], law.loss.detach())
    assert metrics["accuracy"] == (energy.logits(x).argmax(1) == y).float().mean()
    assert not any(value.requires_grad for value in metrics.values())


def test_the_state_of_the_density_is_in_the_checkpoint() -> None:
    space = Box(torch.full((2,), -5.0), torch.full((2,), 5.0))
    objective, other = (JointClassification(persistent(space, chains=20)) for _ in range(2))
    x, y = draw(20, generator(10))
    objective(quadratic(), x, y, generator=generator(11))
    other.load_state_dict(objective.state_dict())
    moved = objective.state_dict()["density.chains.positions"]
    assert torch.equal(other.state_dict()["density.chains.positions"], moved)
    assert moved.shape == (20, 2)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (torch.zeros(4), "integer type, got torch.float32"),
        (torch.ones(4, dtype=torch.bool), "integer type, got torch.bool"),
        (torch.tensor([0, 1, 2, 1]), "from 0 to 1, got 0 to 2"),
        (torch.tensor([0, -100, 1, 1]), "from 0 to 1, got -100 to 1"),
        (torch.tensor([0, 1]), "a label for each of 4 rows"),
        (torch.zeros(4, 1, dtype=torch.long), "a label for each of 4 rows"),
    ],
)
def test_labels_that_are_none_are_refused(label: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrossEntropy()(quadratic(), torch.zeros(4, 2), label, generator=generator())


def test_what_is_no_classification_is_refused() -> None:
    x, y = torch.zeros(3, 2), torch.tensor([0, 1, 0])
    with pytest.raises(TypeError, match="a label for each x"):
        CrossEntropy()(quadratic(), x, generator=generator())
    with pytest.raises(TypeError, match="expected a ClassifierEnergy, got FunctionEnergy"):
        CrossEntropy()(FunctionEnergy(lambda x: x.sum(-1)), x, y, generator=generator())
    for weight in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="positive weight"):
            JointClassification(ExactScoreMatching(), weight)


def test_an_energy_of_a_label_that_is_no_class_is_refused() -> None:
    energy = quadratic()
    with pytest.raises(ValueError, match="from 0 to 1, got 2 to 2"):
        energy.given(torch.tensor(2))(torch.zeros(4, 2))
