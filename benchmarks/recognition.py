"""Recognition: a plain classifier beside one whose logits also hold the images' density.

    EBRL_DATA=… python benchmarks/recognition.py --out benchmarks/results/recognition
    … --runs runs/classifier/CrossEntropy-1 runs/classifier_joint/JointClassification-1

The 10,000 test images of Fashion-MNIST: accuracy, expected calibration error in 15 bins, log loss,
none of them after any fitting of a temperature. Against them 10,000 images each of what the
classifiers never saw: MNIST's test images, uniform noise, and the test images themselves moved by 8
pixels, turned round at the edge, or inverted. Score: the log density `log Σ exp logits` or the
largest probability; the area under the ROC curve, and the part that passes with 95 % of the test
images. For the density itself: the noise left by one step `y - σ² ∇E` at the joint energy's own σ,
and draws of `exp(-E(x, y))`, three a class, by 800 steps of MALA, from noise and from test images
under noise σ, with their energies beside those of such images. The shipped weights are of seed 0,
and the joint ones saw fewer images: 5,000 batches of 64, not 4,000 of 128. `--runs` adds rows of
other trainings. Writes OUT.md, OUT.json, OUT_reliability.png and OUT_samples.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
import torch
import yaml
from matplotlib import pyplot as plt
from sklearn.calibration import CalibrationDisplay
from torch import Tensor

from ebrl import ClassifierEnergy, DualAveraging, Sampler, vision
from ebrl.kernels import MALA
from ebrl.training import load_average
from ebrl.vision import fashion

SHIPPED = ("fashion-classifier", "fashion-joint")
SIGMA = 0.3  # of configs/vision/classifier_joint.yaml
MOVED = 8  # pixels
STEPS, EACH = 800, 3  # of MALA; chains a class
BINS = 15


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outsiders(x: Tensor) -> dict[str, Tensor]:
    """Return what is no image of the test set, as many each."""
    return {
        "MNIST": fashion.labelled("mnist/mnist.npz", "test")[0],
        "uniform noise": torch.rand(x.shape, generator=generator()),
        "moved": x.roll(MOVED, -1),
        "inverted": 1 - x,
    }


def classifiers(runs: list[Path]) -> dict[str, ClassifierEnergy]:
    found = {name: vision.pretrained(name) for name in SHIPPED}
    for run in runs:
        config = yaml.safe_load((run / "config.yaml").read_text())
        energy = ClassifierEnergy(vision.ImageClassifier())
        load_average(energy, run / "checkpoints")
        found[f"{config['name']}, seed {config['seed']}"] = energy.requires_grad_(False)
    return found  # type: ignore[return-value]


# ---- what is measured ----------------------------------------------------------------------------


@torch.no_grad()
def logits(energy: ClassifierEnergy, x: Tensor) -> Tensor:
    return torch.cat([energy.logits(part) for part in x.split(1_000)])


def judge(energy: ClassifierEnergy, x: Tensor, labels: Tensor) -> dict[str, float]:
    """Return every score of a classifier on the test set and beside what is not of it."""
    inside = logits(energy, x)
    found = vision.reliability(inside, labels, BINS)._asdict()
    for name, images in outsiders(x).items():
        outside = logits(energy, images)
        density = vision.detection(inside.logsumexp(1), outside.logsumexp(1))
        softmax = vision.detection(vision.confidence(inside), vision.confidence(outside))
        gap = (inside.logsumexp(1).mean() - outside.logsumexp(1).mean()).item()
        found |= {f"{name}/density/{key}": value for key, value in density._asdict().items()}
        found |= {f"{name}/softmax/{key}": value for key, value in softmax._asdict().items()}
        found[f"{name}/energy above test"] = gap
    y = blurred(x)
    gradient = torch.cat([energy.value_and_gradient(part)[1] for part in y.split(1_000)])
    left = (y - SIGMA**2 * gradient - x).square().mean() / SIGMA**2
    return found | {"noise left": float(left)}


def blurred(x: Tensor) -> Tensor:
    return x + SIGMA * torch.randn(x.shape, generator=generator(1))


def starts(x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return where chains start, `(10 EACH, …)`, the classes in their order."""
    rows = torch.cat([(labels == y).nonzero()[:EACH, 0] for y in range(10)])
    noise = 0.5 + 0.5 * torch.randn(len(rows), *x.shape[1:], generator=generator(2))
    return {"noise": noise, "test images": blurred(x)[rows]}


def draw(energy: ClassifierEnergy, start: Tensor, usual: float) -> tuple[Tensor, dict[str, float]]:
    """Return draws of the energy given each label, and how they fared beside the `usual` energy."""
    label = torch.arange(10).repeat_interleave(EACH)
    sampler = Sampler(MALA(), steps=STEPS, step_size=0.01, adaptation=DualAveraging())
    samples = sampler.sample(energy.given(label), start, generator=generator(3))
    with torch.no_grad():
        recognised = (energy.logits(samples.x).argmax(1) == label).float().mean()
        above = energy(samples.x).mean() - usual
    return samples.x, {
        "acceptance": float(samples.info.acceptance.mean()),
        "energy above": float(above),
        "recognised": float(recognised),
    }


def draw_all(energy: ClassifierEnergy, x: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return for each start the draws, the same without their noise, and how they fared."""
    usual = float(-logits(energy, blurred(x)).logsumexp(1).mean())
    found = {}
    for name, start in starts(x, labels).items():
        drawn, facts = draw(energy, start, usual)
        found[name] = drawn, drawn - SIGMA**2 * energy.value_and_gradient(drawn)[1], facts
    return found


# ---- the table and the pictures ------------------------------------------------------------------


def table(scores: dict[str, list[list[float]]]) -> str:
    """Return one row a classifier from `name/score: [[value]]`."""
    names = list(dict.fromkeys(key.partition("/")[0] for key in scores))
    outside = [key.split("/")[1] for key in scores if key.endswith("density/auroc")]
    outside = list(dict.fromkeys(outside))

    def cell(name: str, key: str, form: str = ".3f", factor: float = 1.0) -> str:
        rows = scores.get(f"{name}/{key}")
        return "" if rows is None else format(factor * rows[0][0], form)

    lines = [
        "| classifier | accuracy, % | ECE, % | log loss | noise left, % |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        parts = [cell(name, key, ".2f", 100) for key in ("accuracy", "calibration_error")]
        parts += [cell(name, "log_loss"), cell(name, "noise left", ".1f", 100)]
        lines.append(f"| {name} | {' | '.join(parts)} |")
    lines += ["", f"| AUROC (passing at 95 %) | score | {' | '.join(outside)} |"]
    lines.append("|---|---|" + "---|" * len(outside))
    for name in names:
        for score in ("density", "softmax"):
            cells = [
                f"{cell(name, f'{other}/{score}/auroc')} "
                f"({cell(name, f'{other}/{score}/false_positives', '.1f', 100)} %)"
                for other in outside
            ]
            lines.append(f"| {name} | {score} | {' | '.join(cells)} |")
    lines += ["", "| draws from | acceptance | energy above noisy test, nats | recognised, % |"]
    lines.append("|---|---|---|---|")
    for key in [key for key in scores if key.endswith("/acceptance")]:
        name, start, _ = key.split("/")
        above = cell(name, f"{start}/energy above", ".1f")
        right = cell(name, f"{start}/recognised", ".0f", 100)
        accepted = cell(name, f"{start}/acceptance", ".2f")
        lines.append(f"| {name}, {start} | {accepted} | {above} | {right} |")
    return "\n".join(lines) + "\n"


def draw_reliability(found: dict[str, ClassifierEnergy], x: Tensor, y: Tensor, to: Path) -> None:
    """Show accuracy by confidence, and in grey the share of the images in each bin."""
    figure, axes = plt.subplots(1, len(SHIPPED), figsize=(4 * len(SHIPPED), 4))
    for axis, name in zip(axes, SHIPPED, strict=True):
        said = logits(found[name], x)
        right, sure = said.argmax(1) == y, vision.confidence(said).clamp(0, 1)
        share = torch.full_like(sure, 1 / len(sure))
        axis.hist(sure, BINS, range=(0, 1), weights=share, color="0.85")
        CalibrationDisplay.from_predictions(right, sure, n_bins=BINS, ax=axis, name=name)
        axis.set(xlabel="confidence", ylabel="accuracy", title=name, aspect="equal")
        axis.get_legend().remove()
    figure.tight_layout()
    figure.savefig(to, dpi=120)
    plt.close(figure)


def draw_samples(draws: dict[str, tuple[Tensor, Tensor]], to: Path) -> None:
    """Show draws, a class a column, and beside them the same without the noise."""
    figure, axes = plt.subplots(len(draws), 2, figsize=(11, 1.9 * len(draws)))
    for row, (name, pair) in zip(axes, draws.items(), strict=True):
        for axis, images, said in zip(row, pair, ("draws", "y - σ² ∇E"), strict=True):
            columns = images[:, 0].unflatten(0, (10, EACH))  # (classes, EACH, height, width)
            grid = columns.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)
            axis.imshow(grid, "gray", vmin=0, vmax=1)
            axis.set(title=f"{name}: {said}", xticks=[], yticks=[])
    figure.tight_layout()
    figure.savefig(to, dpi=64)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where the results go, no suffix")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="run folders of ebrl fit")
    given = parser.parse_args()
    torch.set_num_threads(1)
    matplotlib.use("Agg")
    x, labels = fashion.labelled(split="test")
    found, scores, draws = classifiers(given.runs), {}, {}
    for name, energy in found.items():
        facts: dict[str, Any] = judge(energy, x, labels)
        for start, (*pair, fared) in draw_all(energy, x, labels).items() if name in SHIPPED else ():
            draws[f"{name}, from {start}"] = pair
            facts |= {f"{start}/{key}": value for key, value in fared.items()}
        scores |= {f"{name}/{key}": [[round(value, 5)]] for key, value in facts.items()}
        print(name, json.dumps(facts), flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    facts = {"torch": torch.__version__, "images": len(x), "bins": BINS, "steps": STEPS}
    record = {"facts": facts, "scores": scores}
    given.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    given.out.with_suffix(".md").write_text(table(scores))
    stem = given.out.with_suffix("")
    draw_reliability(found, x, labels, stem.with_name(stem.name + "_reliability.png"))
    draw_samples(draws, stem.with_name(stem.name + "_samples.png"))
    print(table(scores))


if __name__ == "__main__":
    main()
