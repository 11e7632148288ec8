"""Put the weights of a run of `ebrl fit` into the package, in half precision, with their card.

    python benchmarks/ship.py runs/gray/Denoising-0 gray --config configs/vision/gray.yaml \
        --figures benchmarks/results/denoising.json BSD68/ebrl

The card says what the weights were trained on, for how many steps and how long, by which command,
and the figures of the table named whose keys begin so: means of scores over images, or rows as they
are.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ebrl.checkpoints import load_average
from ebrl.vision.shipped import ENERGIES, ship

PAUSE = 120  # seconds between two entries that were not spent in training


def seconds(run: Path) -> int:
    """Return the wall time of the training, from its curves, pauses left out."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    times = sorted(entry.wall_time for entry in events.Scalars("loss"))
    return round(sum(after - before for before, after in pairwise(times) if after - before < PAUSE))


def figures(path: Path, prefix: str) -> dict[str, Any]:
    stored = json.loads(path.read_text())
    table = stored["scores"] if "scores" in stored else stored["rows"]
    chosen = {key: rows for key, rows in table.items() if key.startswith(prefix)}
    if "scores" not in stored:
        return chosen
    return {key: round(fmean(row[0] for row in rows), 3) for key, rows in chosen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name", choices=list(ENERGIES))
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--figures", nargs=2, metavar=("FILE", "PREFIX"))
    given = parser.parse_args()
    energy, config = ENERGIES[given.name](), yaml.safe_load(given.config.read_text())
    facts: dict[str, Any] = {
        "name": given.name,
        "parameters": sum(parameter.numel() for parameter in energy.parameters()),
        "steps": load_average(energy, given.run / "checkpoints"),
        "seconds": seconds(given.run),
        "machine": "one thread of a shared CPU, bfloat16",
        "data": config["data"],
        "command": f"ebrl fit {given.config}",
        "figures": figures(Path(given.figures[0]), given.figures[1]) if given.figures else {},
    }
    path = ship(energy, given.name, facts)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB\n{json.dumps(facts, indent=1)}")


if __name__ == "__main__":
    main()
