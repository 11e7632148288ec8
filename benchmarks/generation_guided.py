"""Generation with a wish: classes by a classifier's energy, completion by an observation.

Part of `benchmarks/generation.py`. A classifier that guides cannot judge its own result. A second
one that does not guide, the vote of the five nearest of 20,000 training images, judges as well.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from ebrl import vision
from ebrl.energies import ClassifierEnergy
from ebrl.vision import fashion
from ebrl.vision.files import save
from ebrl.vision.generation import Guided, generate, generation_levels
from ebrl.vision.observations import Masked

Measure = Callable[[str, Callable[[], dict[str, Any]]], None]
EACH = 10  # images of each class
STRENGTHS = (0.0, 1.0, 2.0, 4.0)
NOISE, SPREAD = 0.02, 0.5  # of the pixels that a completion is given; of clean images
COMPLETIONS = 6  # of an image


def run(measure: Measure, classifier: nn.Module, out: Path) -> None:
    judge = neighbours()
    for strength in STRENGTHS:
        measure(f"Classes/{strength}", lambda s=strength: classes(classifier, judge, s, out))
    for name, mask in masks().items():
        measure(f"Completion/{name}", lambda n=name, m=mask: completion(classifier, n, m, out))


def neighbours() -> KNeighborsClassifier:
    x, label = fashion.labelled()
    return KNeighborsClassifier(5).fit(x[:20_000].flatten(1).numpy(), label[:20_000].numpy())


def classes(
    classifier: nn.Module, judge: KNeighborsClassifier, strength: float, out: Path
) -> dict[str, Any]:
    """Ask for every class; return the shares of images that are seen as what was asked for."""
    label = torch.arange(10).repeat(EACH)  # (10 * each,)
    energy = ClassifierEnergy(classifier)
    wish = energy.given(label) - energy  # -log p(label | x)
    prior = vision.pretrained("fashion")
    made = generate(
        Guided(prior, strength * wish) if strength else prior,
        len(label),
        (1, 28, 28),
        generator=torch.Generator().manual_seed(0),
        levels=generation_levels(rungs=12),
    ).x.clamp(0, 1)
    if strength == 2:
        by_class = made.view(EACH, 10, 1, 28, 28)[:10].transpose(0, 1).flatten(0, 1)
        picture = vision.grid(by_class, columns=10, scale=2)
        save(picture, out.with_name(f"{out.stem}-classes.png"))
    seen = torch.from_numpy(judge.predict(made.flatten(1).numpy()))
    return {
        "images": len(label),
        "by the guide": _share(classifier(made).argmax(1), label),
        "by the neighbours": _share(seen, label),
    }


def masks() -> dict[str, Tensor]:
    """Return what is known of an image, `(28, 28)`: its upper half, or a fifth of its pixels."""
    upper = torch.zeros(28, 28)
    upper[:14] = 1
    scattered = torch.rand(28, 28, generator=torch.Generator().manual_seed(0)) < 0.2
    return {"lower half": upper, "80 % of pixels": scattered.float()}


def completion(classifier: nn.Module, name: str, mask: Tensor, out: Path) -> dict[str, Any]:
    """Complete test images several times each; return how near to them what was made comes."""
    x, label = fashion.labelled(split="test")
    x, label = x[:12], label[:12]
    generator = torch.Generator().manual_seed(0)
    y = mask * (x + NOISE * torch.randn(x.shape, generator=generator))
    many = y.repeat_interleave(COMPLETIONS, 0)
    made = generate(
        Guided(vision.pretrained("fashion"), Masked(many, mask, NOISE), noise=NOISE, spread=SPREAD),
        len(many),
        (1, 28, 28),
        generator=generator,
        levels=generation_levels(rungs=12),
    ).x.clamp(0, 1)
    each = made.view(len(x), COMPLETIONS, 1, 28, 28)
    rows = torch.cat([x.unsqueeze(1), (y + 0.5 * (1 - mask)).unsqueeze(1), each], 1)
    picture = vision.grid(rows.transpose(0, 1).flatten(0, 1), columns=len(x), scale=2)
    save(picture, out.with_name(f"{out.stem}-completion-{name.split()[0]}.png"))
    hidden, known = (mask == 0), (mask == 1)
    return {
        "images": len(x),
        "completions": COMPLETIONS,
        "off where known": _deviation(each - x.unsqueeze(1), known),
        "off where hidden": _deviation(each - x.unsqueeze(1), hidden),
        "off where hidden, mean": _deviation(each.mean(1) - x, hidden),
        "apart where hidden": _deviation((each - each.mean(1, True)) * (6 / 5) ** 0.5, hidden),
        "of the class": _share(classifier(made).argmax(1), label.repeat_interleave(COMPLETIONS)),
    }


def _deviation(difference: Tensor, pixels: Tensor) -> float:
    return round(float(difference[..., pixels].square().mean().sqrt()), 4)


def _share(found: Tensor, wished: Tensor) -> float:
    return round(float((found == wished).double().mean()), 4)


def tables(rows: dict[str, Any]) -> list[str]:
    lines = []
    for world, first in (("Classes", "strength of the guide"), ("Completion", "hidden")):
        found = {key.split("/")[1]: row for key, row in rows.items() if key.startswith(f"{world}/")}
        if found:
            names = list(next(iter(found.values())))
            lines += [f"| {first} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
            lines += [
                f"| {key} | {' | '.join(str(row[name]) for name in names)} |"
                for key, row in found.items()
            ]
            lines.append("")
    return lines
