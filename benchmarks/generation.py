"""Generation: Fashion-MNIST and 8x8 digits, judged in a classifier's features, beside the floors.

    ebrl fit configs/vision/digits.yaml --run runs/digits
    EBRL_DATA=… python benchmarks/generation.py --digits runs/digits \
        --out benchmarks/results/generation

Sets of `--count` images against as many that no training saw; the Fréchet distance of the features
(FID) falls with their number, which is why every row names it and has floors of the same number in
the same table: real images of the training set, a Gaussian with the mean and the covariance of its
pixels, white noise. `--score` is a run of the same config, stopped after its plain steps: the score
network that the energy started from, which shows what the energy costs or gains. Slow variants draw
`--few`. The classifier of Fashion-MNIST ships; that of the digits is trained here. Figures land in
OUT.json as soon as they are known, and what is there is not computed again, unless the weights are
others; pictures in OUT-*.png.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import generation_guided
import torch
import yaml
from torch import Tensor, nn

from ebrl import vision
from ebrl.energies import Energy
from ebrl.kernels import MALA, ULA
from ebrl.sampling import Sampler
from ebrl.training import load_average
from ebrl.vision import digits, fashion
from ebrl.vision.files import save
from ebrl.vision.generation import generate, generation_levels
from ebrl.vision.resemblance import compare, in_batches

FLOORS = ("real", "Gaussian", "noise")
TOGETHER = 250  # images drawn at once
MOVES = 2  # of a corrector at every level
CORRECTORS = {"none": None, "Langevin": ULA, "MALA": MALA}


class World(NamedTuple):
    """A set of images, and what draws and judges such images."""

    name: str
    train: Tensor
    test: Tensor
    prior: Energy
    score: Energy | None  # the same network, trained as a plain denoiser
    classifier: nn.Module
    accuracy: float


class Score(Energy):
    """The denoiser inside a gradient-step energy, in the place of the energy's gradient."""

    event_ndim = 3
    takes_condition = True

    def __init__(self, energy: Energy, sigma: Tensor | None = None):
        super().__init__()
        self.energy, self.sigma = energy, sigma

    def given(self, condition: Tensor) -> Energy:
        return Score(self.energy, condition)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert self.sigma is not None
        with torch.no_grad():
            clean = self.energy.plain(x, self.sigma.expand(len(x), 1, *x.shape[2:]))
        return x.new_full((len(x),), torch.nan), (x - clean) / self.sigma**2  # it has no energy


# ---- what is measured ----------------------------------------------------------------------------


class Record:
    """Figures by name, kept in a file, together with the steps of the weights that they are of."""

    def __init__(self, path: Path, facts: dict[str, Any]):
        self.path, self.facts, self.rows = path, facts, {}
        if path.exists():
            stored = json.loads(path.read_text())
            if stored["facts"] == facts:
                self.rows = stored["rows"]
            elif stored["facts"] | {"steps": facts["steps"]} == facts:
                self.rows = {
                    key: row for key, row in stored["rows"].items() if key.split("/")[1] in FLOORS
                }

    def measure(self, key: str, figures: Callable[[], dict[str, Any]]) -> None:
        """Compute the figures of a row, unless they are known."""
        if key not in self.rows:
            self.rows[key] = figures()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            stored = {"facts": self.facts, "rows": self.rows}
            self.path.write_text(json.dumps(stored, indent=1) + "\n")
            print(key, json.dumps(self.rows[key]), flush=True)


def judged(made: Tensor, world: World) -> dict[str, Any]:
    """Return how the images resemble as many of the test set."""
    found = compare(made.clamp(0, 1), world.test[: len(made)], world.classifier)
    figures = {"count": len(made), "fid": found.frechet, **found.neighbourhoods._asdict()}
    return {name: round(value, 4) for name, value in figures.items()} | {
        "shares": [round(share, 4) for share in found.shares]
    }


def drawn(
    world: World, prior: Energy, count: int, levels: Tensor, kernel: type | None, fast: bool
) -> tuple[Tensor, dict[str, Any]]:
    """Return images, the time and the gradients that they took, and the acceptance of moves."""
    generator = torch.Generator().manual_seed(0)
    corrector = None if kernel is None else Sampler(kernel(), steps=MOVES)
    parts, accepted, begun = [], [], time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=fast):
        for first in range(0, count, TOGETHER):
            size = min(TOGETHER, count - first)
            made = generate(
                prior,
                size,
                tuple(world.test.shape[1:]),
                generator=generator,
                levels=levels,
                corrector=corrector,
            )
            parts.append(made.x.float())
            accepted.append(made.acceptance * size / count)
    acceptance = torch.stack(accepted).sum(0)[1:].tolist()
    steps = len(levels) - 1
    return torch.cat(parts), {
        "levels": len(levels),
        "gradients": 2 * steps + 1 + (0 if kernel is None else steps * (MOVES + 1)),
        "seconds": round(time.process_time() - begun, 1),
        **({} if kernel is None else {"acceptance": [round(share, 3) for share in acceptance]}),
    }


def floors(record: Record, world: World, counts: set[int]) -> None:
    """What real images reach, and what a Gaussian and noise do."""
    generator = torch.Generator().manual_seed(0)
    pixels = world.train.flatten(1).double()
    factor = torch.linalg.cholesky(pixels.T.cov() + 1e-6 * torch.eye(pixels.shape[1]).double())
    for count in sorted(counts):
        order = torch.randperm(len(world.train), generator=generator)[:count]
        normal = torch.randn(count, pixels.shape[1], generator=generator, dtype=torch.double)
        gaussian = (pixels.mean(0) + normal @ factor.T).float().view(-1, *world.test.shape[1:])
        noise = torch.rand(gaussian.shape, generator=generator)
        for name, images in zip(FLOORS, (world.train[order], gaussian, noise), strict=True):
            key = f"{world.name}/{name}/{count}"
            record.measure(key, lambda images=images: judged(images, world))


def paths(record: Record, world: World, count: int, few: int, levels: int, out: Path) -> None:
    """The path without noise, its levels, the score, and correctors."""

    def row(prior: Energy, n: int, rungs: int, corrector: str = "none", fast: bool = True) -> Any:
        ladder = generation_levels(rungs=rungs)
        made, facts = drawn(world, prior, n, ladder, CORRECTORS[corrector], fast)
        if corrector == "none" and n == count and prior is world.prior:
            pictures(world, made, out)
            facts |= novelty(made[:1_000], world)
        return judged(made, world) | facts

    name, prior = world.name, world.prior
    record.measure(f"{name}/energy/{count}", lambda: row(prior, count, levels))
    if world.score is not None:
        record.measure(f"{name}/score/{count}", lambda: row(Score(world.score), count, levels))
    # Energies that are compared are computed in float32.
    for corrector in ("none", "Langevin", "MALA"):
        key = f"{name}/energy, corrector {corrector}, float32/{few}"
        record.measure(key, lambda c=corrector: row(prior, few, levels, c, fast=False))
    for rungs in (6, 18):
        record.measure(f"{name}/energy, {rungs} levels/{few}", lambda r=rungs: row(prior, few, r))


def nearest(made: Tensor, real: Tensor) -> Tensor:
    """Return the index, `(n,)`, of the real image nearest to each made one, in pixels."""
    rows = real.flatten(1)
    return torch.cat([torch.cdist(some, rows).argmin(1) for some in made.flatten(1).split(1_000)])


def novelty(made: Tensor, world: World) -> dict[str, Any]:
    """Return how far the nearest training image is, from what was made and from the test set."""
    distances = []
    for images in (made, world.test[: len(made)]):
        found = world.train[nearest(images, world.train)]
        distances.append(float((images - found).square().sum((1, 2, 3)).sqrt().mean()))
    return {"nearest": round(distances[0], 3), "nearest_of_test": round(distances[1], 3)}


def pictures(world: World, made: Tensor, out: Path) -> None:
    """Write the first images, and some of them above their nearest of the training set."""
    scale = 2 if world.test.shape[-1] > 8 else 6
    stem = f"{out.stem}-{world.name.lower()}"
    save(vision.grid(made[:100], scale=scale), out.with_name(f"{stem}.png"))
    shown = made[:48]
    found = world.train[nearest(shown, world.train)]
    pairs = torch.stack([images.unflatten(0, (3, 16)) for images in (shown, found)], 1)
    save(
        vision.grid(pairs.flatten(0, 2), columns=16, scale=scale),
        out.with_name(f"{stem}-nearest.png"),
    )


# ---- the two worlds ------------------------------------------------------------------------------


def clothes(score: Path | None) -> World:
    train, test = fashion.labelled()[0], fashion.labelled(split="test")
    classifier = vision.pretrained("fashion-classifier").classifier
    order = torch.randperm(len(test[0]), generator=torch.Generator().manual_seed(0))
    accuracy = _accuracy(classifier, *test)
    prior = vision.pretrained("fashion")
    plain = None if score is None else fitted(score)
    return World("Fashion", train, test[0][order], prior, plain, classifier, accuracy)


def handwriting(run: Path) -> World:
    (train, labels), test = digits.labelled(), digits.labelled("test")
    torch.manual_seed(0)
    classifier = vision.ImageClassifier(size=8, widths=(32, 64))
    optimizer = torch.optim.Adam(classifier.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(1_500):
        pick = torch.randint(len(train), (64,), generator=generator)
        loss = nn.functional.cross_entropy(classifier(train[pick]), labels[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    classifier.eval().requires_grad_(False)
    accuracy = _accuracy(classifier, *test)
    return World("Digits", train, test[0], fitted(run), None, classifier, accuracy)


def fitted(run: Path) -> Energy:
    """Return the energy of a run of `ebrl fit`, with its averaged weights."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    energy = vision.DiffusionEnergy(**config["energy"]["init_args"])
    load_average(energy, run / "checkpoints")
    return energy.eval().requires_grad_(False)


def _accuracy(classifier: nn.Module, images: Tensor, labels: Tensor) -> float:
    right = in_batches(classifier, images).argmax(1) == labels
    return round(float(right.double().mean()), 4)


# ---- the tables ----------------------------------------------------------------------------------


def tables(record: Record) -> str:
    lines = []
    for world in ("Fashion", "Digits"):
        rows = {key: row for key, row in record.rows.items() if key.startswith(f"{world}/")}
        if rows:
            accuracy = 100 * record.facts[f"{world} accuracy"]
            title = f"**{world}**, in the features of a classifier of accuracy {accuracy:.1f} %"
            lines += [title, "", *_table(rows), ""]
        for key, row in rows.items():
            if "nearest" in row and key.split("/")[1] == "energy":
                lines += [
                    "Nearest image of the training set, in pixels: on average "
                    f"{row['nearest']} from what `{key.split('/')[1]}` made, "
                    f"{row['nearest_of_test']} from images of the test set.",
                    "",
                ]
            if "acceptance" in row and "MALA" in key:
                shares = " ".join(f"{share:.2f}" for share in row["acceptance"])
                lines += [f"Acceptance of MALA from the second level to the last: {shares}", ""]
    return "\n".join([*lines, *generation_guided.tables(record.rows)]) + "\n"


def _table(rows: dict[str, Any]) -> list[str]:
    head = "images | levels | gradients | FID | recall | coverage | precision | density"
    lines = [f"| | {head} | classes, least to most | CPU s for 100 |", "|---" * 11 + "|"]
    for key, row in rows.items():
        shares = f"{100 * min(row['shares']):.0f} to {100 * max(row['shares']):.0f} %"
        spent = 100 * row["seconds"] / row["count"] if "seconds" in row else None
        figures = [row[name] for name in ("recall", "coverage", "precision", "density")]
        cells = [
            key.split("/")[1],
            f"{row['count']:,}",
            str(row.get("levels", "")),
            str(row.get("gradients", "")),
            f"{row['fid']:.2f}",
            *(f"{figure:.3f}" for figure in figures),
            shares,
            "" if spent is None else f"{spent:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="write OUT.md, OUT.json, OUT-*.png")
    parser.add_argument("--digits", type=Path, help="the run of configs/vision/digits.yaml")
    parser.add_argument(
        "--score", type=Path, help="a run of configs/vision/fashion.yaml's denoiser"
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--few", type=int, default=2_000)
    parser.add_argument("--levels", type=int, default=12)
    given = parser.parse_args()
    torch.set_num_threads(1)
    worlds = [clothes(given.score), *([handwriting(given.digits)] if given.digits else [])]
    facts: dict[str, Any] = {f"{world.name} accuracy": world.accuracy for world in worlds}
    facts |= {"steps": vision.card("fashion")["steps"], "torch": torch.__version__}
    record = Record(given.out.with_suffix(".json"), facts)
    for world in worlds:
        count, few = min(given.count, len(world.test)), min(given.few, len(world.test))
        paths(record, world, count, few, given.levels, given.out)
        floors(record, world, {count, few})
    generation_guided.run(record.measure, worlds[0].classifier, given.out)
    given.out.with_suffix(".md").write_text(tables(record))
    print(tables(record))


if __name__ == "__main__":
    main()
