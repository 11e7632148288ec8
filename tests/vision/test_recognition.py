"""Classifiers of images, what their probabilities are worth, and what they have never seen."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import generator
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import TensorDataset

from ebrl import ClassifierEnergy, schedules, vision
from ebrl.objectives import CrossEntropy, DenoisingScoreMatching, JointClassification, Objective
from ebrl.training import RunningClip, fit
from ebrl.vision import fashion
from ebrl.vision.shipped import WEIGHTS


def small(channels: int = 1, size: int = 8) -> vision.ImageClassifier:
    torch.manual_seed(0)
    return vision.ImageClassifier(channels, size, widths=(16, 32), features=12)


# ---- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (1, 9), (2, 1)])
def test_logits_are_linear_in_the_features(channels: int, size: int) -> None:
    classifier = small(channels, size)
    x = torch.rand(5, channels, size, size, generator=generator())
    features = classifier.features(x)
    assert features.shape == (5, 12)
    torch.testing.assert_close(classifier(x), classifier.head(features))
    assert classifier(x).shape == (5, 10)


def test_its_energy_has_second_derivatives_and_any_batch_axes() -> None:
    energy = ClassifierEnergy(small(size=5)).double()
    x = torch.rand(2, 3, 1, 5, 5, dtype=torch.float64, generator=generator())
    assert energy(x).shape == (2, 3)
    x = x[0, :1].requires_grad_()
    assert torch.autograd.gradcheck(energy, x)
    assert torch.autograd.gradgradcheck(energy, x, atol=1e-4)  # what score matching descends
    (hessian,) = torch.autograd.functional.hessian(energy, x).flatten(4).norm(dim=-1).flatten(1)
    assert (hessian > 0).all()  # no pixel of it is zero, as under piecewise linear activations


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 8, 9), (1, 8, 8), (2, 64)])
def test_images_of_another_kind_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(n, 1, 8, 8\), got "):
        small()(torch.rand(shape))


@pytest.mark.parametrize("bad", [{"channels": 0}, {"size": 0}, {"classes": 0}, {"widths": (8, 0)}])
def test_sizes_that_are_none_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match="to be positive"):
        vision.ImageClassifier(**bad)


# ---- learning, on scikit-learn's digits ----------------------------------------------------------


def digits() -> tuple[Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y).long()


def learnt(objective: Objective) -> ClassifierEnergy:
    energy = ClassifierEnergy(small())
    x, y = digits()
    fit(
        energy,
        TensorDataset(x[:1_200], y[:1_200]),
        objective,
        steps=200,
        batch_size=64,
        learning_rate=1e-2,
        schedule=schedules.cosine,
        clip=RunningClip(),
        generator=generator(1),
    )
    return energy


def test_joint_training_classifies_and_denoises() -> None:
    sigma, (x, y) = 0.3, (part[1_200:] for part in digits())
    noise = sigma * torch.randn(x.shape, generator=generator(2))
    left = {}
    joint = JointClassification(DenoisingScoreMatching(sigma), 0.5)
    for name, objective in {"joint": joint, "alone": CrossEntropy()}.items():
        energy = learnt(objective)
        with torch.no_grad():
            scores = vision.reliability(energy.logits(x), y)
        assert scores.accuracy > 0.8  # of pages by other writers; .1 by chance
        _, gradient = energy.value_and_gradient(x + noise)
        left[name] = float((noise - sigma**2 * gradient).square().mean()) / sigma**2
    assert left["joint"] < 0.5  # of the noise's power, one Tweedie step down the energy
    assert left["alone"] > 0.9  # whose energy knows nothing of the images


# ---- what is measured ----------------------------------------------------------------------------


def test_calibration_is_that_of_bins_by_hand() -> None:
    # In one bin 4 rows at confidence .9, of which 3 are right; in another 6 at .6, all right.
    sure = torch.tensor([[0.9, 0.1]]).log().expand(4, 2)
    unsure = torch.tensor([[0.4, 0.6]]).log().expand(6, 2)
    labels = torch.tensor([0, 0, 0, 1] + [1] * 6)
    scores = vision.reliability(torch.cat([sure, unsure]), labels)
    assert scores.accuracy == pytest.approx(0.9)
    assert scores.calibration_error == pytest.approx(0.4 * 0.15 + 0.6 * 0.4, abs=1e-6)


def test_probabilities_that_are_the_truth_are_calibrated() -> None:
    n = 40_000
    logits = 2 * torch.randn(n, 4, generator=generator(3))
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator(4)).squeeze(1)
    # Each of 15 bins is off by about its binomial standard error, √(.25/(n/15)) at the most.
    assert vision.reliability(logits, labels).calibration_error < (0.25 * 15 / n) ** 0.5
    assert vision.reliability(3 * logits, labels).calibration_error > 0.1
    true_loss = -(logits.log_softmax(1) * logits.softmax(1)).sum(1).mean()
    assert vision.reliability(logits, labels).log_loss == pytest.approx(float(true_loss), abs=0.02)


def test_detection_of_shifted_gaussians_is_the_closed_form() -> None:
    n = 20_000
    inside = torch.randn(n, generator=generator(5)) + 2
    outside = torch.randn(n, generator=generator(6))
    found = vision.detection(inside, outside)
    normal = torch.distributions.Normal(0.0, 1.0)
    assert found.auroc == pytest.approx(float(normal.cdf(torch.tensor(2**0.5))), abs=0.005)
    passing = 1 - normal.cdf(2 - normal.icdf(torch.tensor(0.95)))
    assert found.false_positives == pytest.approx(float(passing), abs=0.015)


def test_only_the_order_of_scores_counts() -> None:
    inside = torch.randn(500, generator=generator(7)) + 1
    outside = torch.randn(700, generator=generator(8))
    found = vision.detection(inside, outside)
    assert vision.detection(1e3 * inside + 1e4, 1e3 * outside + 1e4) == found  # no sigmoid's ties
    assert vision.detection(torch.ones(30), torch.ones(30)) == (0.5, 1.0)
    assert vision.detection(torch.arange(5) + 9.0, torch.arange(5.0)) == (1.0, 0.0)


def test_confidence_is_the_largest_probability() -> None:
    logits = torch.tensor([[0.2, 0.3, 0.5], [0.8, 0.1, 0.1]]).log() + 7
    torch.testing.assert_close(vision.confidence(logits), torch.tensor([0.5, 0.8]))


def test_scores_and_labels_that_do_not_fit_are_refused() -> None:
    logits = torch.zeros(3, 4)
    for labels, message in [
        (torch.zeros(3), "integer type"),
        (torch.tensor([0, 1, 4]), "from 0 to 3"),
        (torch.tensor([0, 1]), "a label for each"),
    ]:
        with pytest.raises(ValueError, match=message):
            vision.reliability(logits, labels)
    with pytest.raises(ValueError, match="n > 0"):
        vision.reliability(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="neither empty"):
        vision.detection(torch.zeros(3), torch.zeros(0))
    with pytest.raises(ValueError, match="NaN"):
        vision.detection(torch.zeros(3), torch.full((2,), torch.nan))


# ---- what ships ----------------------------------------------------------------------------------

SHIPPED = ["fashion-classifier", "fashion-joint"]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_classifiers_are_small_frozen_and_say_what_they_are(name: str) -> None:
    energy = vision.pretrained(name)
    assert isinstance(energy, ClassifierEnergy)
    assert energy.classifier.features(torch.rand(2, 1, 28, 28)).shape == (2, 64)  # type: ignore
    assert not any(weight.requires_grad for weight in energy.parameters())
    assert (WEIGHTS / f"{name}.safetensors").stat().st_size < 2_000_000
    facts = vision.card(name)
    assert facts["command"].startswith("ebrl fit configs/vision/classifier")
    assert facts["steps"] > 0
    assert facts["seconds"] > 0


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_classifiers_know_fashion(name: str) -> None:
    if not (Path(os.environ.get("EBRL_DATA", "")) / "fashion_mnist/fashion_mnist.npz").is_file():
        pytest.skip("EBRL_DATA names no folder with fashion_mnist/fashion_mnist.npz")
    x, y = (part[:2_000] for part in fashion.labelled(split="test"))
    energy = vision.pretrained(name)
    with torch.no_grad():
        scores = vision.reliability(energy.logits(x), y)  # type: ignore[operator]
    card = vision.card(name)["figures"][f"{name}/accuracy"]
    assert scores.accuracy == pytest.approx(card, abs=0.02)  # 3 standard errors of 2,000 images


def written(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_a_labelled_file_of_ones_own(tmp_path: Path) -> None:
    x, y = np.full((4, 8, 8), 255, dtype=np.uint8), np.arange(4)
    file = written(tmp_path / "own.npz", x_train=x, y_train=y)
    images, labels = fashion.pairs(file).tensors
    assert images.shape == (4, 1, 8, 8)
    assert (images == 1).all()
    assert labels.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="expected arrays x_test and y_test, got x_train, y_train"):
        fashion.pairs(file, "test")
    with pytest.raises(FileNotFoundError, match="EBRL_DATA"):
        fashion.pairs(str(tmp_path / "none.npz"))
    for bad_x, bad_y in [(x / 255, y), (x, y / 2), (x, y[:3]), (x[0], y[:1])]:
        file = written(tmp_path / "bad.npz", x_train=bad_x, y_train=bad_y)
        with pytest.raises(ValueError, match=r"bad.npz: expected images \(n, height, width\)"):
            fashion.pairs(file)


def test_a_label_that_is_no_class_is_refused_before_work() -> None:
    x, y = torch.rand(20, 1, 8, 8), torch.zeros(20, dtype=torch.long)
    y[13] = 10
    with pytest.raises(ValueError, match="from 0 to 9, got 0 to 10"):
        fit(
            ClassifierEnergy(small()),
            TensorDataset(x, y),
            CrossEntropy(),
            steps=1,
            batch_size=4,
            generator=generator(),
        )
