"""The generator that ships, judged by the classifier that ships: no data are needed."""

from __future__ import annotations

import torch

from ebrl import vision
from ebrl.kernels import MALA
from ebrl.sampling import Sampler
from ebrl.vision.fashion import CLASSES
from ebrl.vision.generation import Guided, generate, generation_levels

SHAPE = (1, 28, 28)


def test_it_makes_clothes_of_every_kind() -> None:
    made = generate(
        vision.pretrained("fashion"),
        60,
        SHAPE,
        generator=torch.Generator().manual_seed(0),
        levels=generation_levels(rungs=8),
    ).x
    probabilities = vision.pretrained("fashion-classifier").logits(made.clamp(0, 1)).softmax(1)
    # The classifier is as sure of most as it is of photographs; of noise it is, too, but of one.
    assert probabilities.amax(1).median() > 0.8
    assert len(probabilities.argmax(1).unique()) >= 8
    # Fashion-MNIST's own: mean .286, deviation .353, and half of the pixels are black.
    assert abs(made.mean() - 0.286) < 0.05
    assert abs(made.std() - 0.353) < 0.04
    assert 0.4 < (made < 0.02).float().mean() < 0.65


def test_a_label_is_heard() -> None:
    classifier = vision.pretrained("fashion-classifier")
    label = torch.arange(len(CLASSES))
    made = generate(
        Guided(vision.pretrained("fashion"), 4.0 * (classifier.given(label) - classifier)),
        len(label),
        SHAPE,
        generator=torch.Generator().manual_seed(0),
        levels=generation_levels(rungs=12),
    ).x
    assert (classifier.logits(made.clamp(0, 1)).argmax(1) == label).float().mean() > 0.7


def test_its_energies_accept_moves_at_every_level() -> None:
    made = generate(
        vision.pretrained("fashion"),
        4,
        SHAPE,
        generator=torch.Generator().manual_seed(0),
        levels=generation_levels(rungs=5),
        corrector=Sampler(MALA(), steps=2),
    )
    assert (made.acceptance[1:] > 0.2).all()


def test_the_card_says_what_it_reaches() -> None:
    card = vision.card("fashion")
    assert card["parameters"] == sum(p.numel() for p in vision.pretrained("fashion").parameters())
    assert card["steps"] > 30_000  # of which the first 30,000 train no gradient
    assert any(row["fid"] < 20 for row in card["figures"].values())
