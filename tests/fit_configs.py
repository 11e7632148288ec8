"""Configs of tiny trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

PNG = b"\x89PNG\r\n\x1a\n"
BOX = {"class_path": "ebrl.spaces.Box", "init_args": {"low": [-2.0, -1.5], "high": [3.0, 2.0]}}


def sampler(steps: int) -> dict[str, Any]:
    return {
        "kernel": "ebrl.kernels.MALA",
        "space": BOX,
        "steps": steps,
        "step_size": 0.05,
        "adaptation": "ebrl.DualAveraging",
    }


def config(folder: Path, **changes: Any) -> Path:
    """A config of a tiny run in `folder/run`; `changes` are top-level keys."""
    content = {
        "energy": {
            "class_path": "ebrl.networks.MLPEnergy",
            "init_args": {"dimension": 2, "hidden": [16]},
        },
        "data": {"class_path": "ebrl.training.tables.two_moons", "init_args": {"n": 300}},
        "objective": {
            "class_path": "ebrl.objectives.ContrastiveDivergence",
            "init_args": {
                "sampler": {"class_path": "ebrl.Sampler", "init_args": sampler(2)},
                "chains": {"class_path": "ebrl.Chains", "init_args": {"size": 100, "space": BOX}},
            },
        },
        "sampler": sampler(20),
        "steps": 60,
        "batch_size": 64,
        "checkpoint_every": 25,
        "log_every": 3,
        "run": str(folder / "run"),
        **changes,
    }
    folder.mkdir(exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path
