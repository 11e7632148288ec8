"""Whether samplers and estimators give what they say, on laws that are known.

    python benchmarks/calibration.py --out benchmarks/results/calibration

Prints six tables, or the --tables named; with --out writes them as OUT.md and every figure as
OUT.json, beside the tables already there. Kernels by the moments of what they leave behind, walls,
weights of modes, log normalizers; each beside its standard error or the floor of a perfect sampler,
and beside the libraries of the extra `benchmark` where they are installed. Draws of several --seeds
are pooled; log normalizers have a row for each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import calibration_bias as bias
import calibration_laws as laws
import calibration_moments as moments
import torch
from calibration_moments import Section
from calibration_peers import INSTALLED, MISSING

TABLES: dict[str, Callable[[Sequence[int]], Section]] = {
    "kernels": moments.kernels,
    "peers": moments.peers,
    "biases": bias.biases,
    "walls": laws.bounded,
    "weights": laws.weights,
    "normalizers": laws.normalizers,
}


def recorded(path: Path, seeds: list[int]) -> dict[str, Any]:
    """Return the record of tables made with these seeds and packages; of others, an empty one."""
    settings = {
        "seeds": seeds,
        "torch": torch.__version__,
        "peers": INSTALLED,
        "not_installed": MISSING,
    }
    if path.exists():
        record = json.loads(path.read_text())
        if {name: record.get(name) for name in settings} == settings:
            return record
    return settings | {"tables": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.tables:
        section = TABLES[name](arguments.seeds)
        print(section.text, end="\n\n", flush=True)
        if arguments.out:
            path = arguments.out.with_suffix(".json")
            path.parent.mkdir(parents=True, exist_ok=True)
            record = recorded(path, arguments.seeds)  # others may have written meanwhile
            columns = section.rows[0]._fields
            table = {"text": section.text, "columns": columns, "rows": section.rows}
            record["tables"][name] = table
            path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
            texts = [record["tables"][each]["text"] for each in TABLES if each in record["tables"]]
            arguments.out.with_suffix(".md").write_text("\n\n".join(texts) + "\n")


if __name__ == "__main__":
    main()
