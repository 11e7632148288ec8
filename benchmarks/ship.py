"""Put the weights of a run of `ebrl fit` into the package, in half precision, with their card.

    python benchmarks/ship.py weights gray runs/gray/Denoising-0 \
        --config configs/vision/gray.yaml --levels 0.5 75
    python benchmarks/ship.py weights color runs/first runs/second --config …  # one after the other
    python benchmarks/ship.py figures gray benchmarks/results/denoising.json BSD68/ebrl

The card says what the weights were trained on, for how many steps and how long, by which command,
and then the figures of a table whose keys begin so: means of scores over images, or rows as they
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

from ebrl.training import load_average
from ebrl.vision.shipped import ENERGIES, card, pretrained, ship

PAUSE = 120  # seconds between two entries that were not spent in training


def seconds(run: Path) -> int:
    """Return the wall time of the training, from its curves, pauses left out."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    times = sorted(entry.wall_time for entry in events.Scalars("loss"))
    return round(sum(after - before for before, after in pairwise(times) if after - before < PAUSE))


def figures(path: Path, prefixes: list[str]) -> dict[str, Any]:
    stored = json.loads(path.read_text())
    table = stored["scores"] if "scores" in stored else stored["rows"]
    chosen = {key: rows for key, rows in table.items() if key.startswith(tuple(prefixes))}
    if "scores" not in stored:
        return chosen
    return {key: round(fmean(row[0] for row in rows), 3) for key, rows in chosen.items()}


def put_weights(given: argparse.Namespace) -> None:
    energy, config = ENERGIES[given.name](), yaml.safe_load(given.config.read_text())
    facts = {
        "name": given.name,
        "parameters": sum(parameter.numel() for parameter in energy.parameters()),
        "steps": sum(load_average(energy, run / "checkpoints") for run in given.runs),
        "seconds": sum(map(seconds, given.runs)),
        "machine": given.machine,
        "data": config["data"],
        "command": given.command or f"ebrl fit {given.config}",
        "figures": {},
    }
    if given.levels is not None:
        facts["levels"] = given.levels
    ship(energy, given.name, facts)


def put_figures(given: argparse.Namespace) -> None:
    facts = card(given.name) | {"figures": figures(given.table, given.prefixes)}
    ship(pretrained(given.name), given.name, facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    weights = verbs.add_parser("weights", help="of a run, with a new card")
    weights.add_argument("name", choices=list(ENERGIES))
    weights.add_argument("runs", type=Path, nargs="+", help="each from the weights before it")
    weights.add_argument("--config", type=Path, required=True)
    weights.add_argument("--machine", default="one thread of a shared CPU, bfloat16")
    weights.add_argument("--command", help="that trained them (default: ebrl fit CONFIG)")
    weights.add_argument("--levels", type=float, nargs=2, help="that a denoiser knows, of 255")
    weights.set_defaults(put=put_weights)
    measured = verbs.add_parser("figures", help="of a table, onto the card of weights that ship")
    measured.add_argument("name", choices=list(ENERGIES))
    measured.add_argument("table", type=Path)
    measured.add_argument("prefixes", nargs="+")
    measured.set_defaults(put=put_figures)
    given = parser.parse_args()
    given.put(given)
    print(json.dumps(card(given.name), indent=1))


if __name__ == "__main__":
    main()
