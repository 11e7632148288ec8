"""Runs on the Hugging Face Hub: what is published of them, and how they come back."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ebrl import storage
from ebrl.command.configs.files import read_tree
from ebrl.command.errors import RunError, UsageError, extra
from ebrl.command.runs.folder import (
    Run,
    new_run,
    no_checkpoint,
    read_evaluations,
    task_of,
    trains_energy,
)
from ebrl.rolling import checkpoints_in
from ebrl.storage import StorageError

WEIGHTS = "model.safetensors"
BESIDE = ("evaluations.json", "evaluations.csv", "evaluations.npz", "normalization.json")
PULLED = ("config.yaml", WEIGHTS, "plot.png", "checkpoints/checkpoint-*.zip", *BESIDE)
HTTP = ("httpx", "httpx2", "httpcore")
PACKAGES = ("ebrl", "torch", "numpy", "stable_baselines3", "gymnasium", "mujoco")

CARD = """
# {name}

{title}

{figures}

## Use it

```bash
pip install "ebrl[all,hub]"
ebrl pull {name}
ebrl {verb} runs/hub/{short}
```

## How it was made

```bash
ebrl {maker} config.yaml
```

with the `config.yaml` in this repository, on {system}, Python {python}:
{versions}.

Weights are in safetensors; no file here is a pickle. Licence: {license}.
"""


@contextmanager
def asking(endpoint: str | None) -> Iterator[Any]:
    """Yield a client of the Hub, whose errors are reported in one line.

    Raises:
        RunError: If huggingface_hub is not installed, or the Hub does not answer or refuses.
        UsageError: If the name is none that the Hub takes.
    """
    with extra("hub", "huggingface_hub"):
        from huggingface_hub import HfApi
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            LocalTokenNotFoundError,
        )
    hub = HfApi(endpoint=endpoint, library_name="ebrl")
    try:
        yield hub
    except HFValidationError as error:
        raise UsageError(f"expected a repository NAMESPACE/NAME: {error}") from error
    except LocalTokenNotFoundError as error:
        raise RunError("no login at the Hub: hf auth login, or set HF_TOKEN.") from error
    except HfHubHTTPError as error:
        raise RunError(f"the Hub at {hub.endpoint} refused: {error}") from error
    except LocalEntryNotFoundError as error:
        raise RunError(f"nobody answers at {hub.endpoint}: {error}") from error
    except Exception as error:  # of the library that the client speaks HTTP by
        if type(error).__module__.partition(".")[0] not in HTTP:
            raise
        raise RunError(f"nobody answers at {hub.endpoint}: {error}") from error


def stage(run: Run, folder: str, name: str, license: str) -> list[str]:
    """Copy what is published of a run into `folder`, with a model card; return the files' names.

    Raises:
        RunError: If there is nothing to publish yet, or a file is damaged.
    """
    found = checkpoints_in(run.checkpoints)
    if not found:
        raise no_checkpoint(run)
    target = Path(folder)
    (target / "checkpoints").mkdir()
    shutil.copy(found[0], target / "checkpoints")
    shutil.copy(run.config, target)
    for path in (run.picture, *(run.folder / each for each in BESIDE)):
        if path.exists():
            shutil.copy(path, target)
    try:
        storage.load(found[0])
        if run.model.exists() and not _is_foreign(run):
            stored = storage.load(run.model)
            storage.save(target / WEIGHTS, stored.tensors, stored.facts)
    except StorageError as error:
        raise RunError(str(error)) from error
    (target / "README.md").write_text(card(run, name, license), encoding="utf-8")
    return sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())


def unpack(folder: str, name: str, target: str) -> Run:
    """Make a run folder of what was downloaded.

    Raises:
        UsageError: If the target holds something already.
        RunError: If the repository holds no run, or a file that is none of ours.
    """
    source = Path(folder)
    found = checkpoints_in(source / "checkpoints")
    if not (source / "config.yaml").is_file() or not found:
        raise RunError(f"{name} holds no run: there is no config.yaml with a checkpoint.")
    try:
        weights = storage.load(source / WEIGHTS) if (source / WEIGHTS).exists() else None
        storage.load(found[0])
    except StorageError as error:
        raise RunError(f"{name}: {error}") from error
    with new_run(target, (source / "config.yaml").read_text(encoding="utf-8")) as run:
        run.checkpoints.mkdir()
        shutil.copy(found[0], run.checkpoints)
        for each in ("plot.png", *BESIDE):
            if (source / each).is_file():
                shutil.copy(source / each, run.folder)
        if weights is not None:
            storage.save(run.model, weights.tensors, weights.facts)
        return run


def card(run: Run, name: str, license: str) -> str:
    """Return the model card: what the Hub indexes, the figures, and how the run was made."""
    from huggingface_hub import EvalResult, ModelCardData

    energy = trains_energy(run)
    maker, task = (_objective(run), "an energy of data") if energy else task_of(run)
    title = f"{maker} on {task}."
    evaluations = [] if energy else read_evaluations(run)
    results = [
        EvalResult(
            task_type="reinforcement-learning", dataset_type=task, dataset_name=task,
            metric_type="mean_reward", metric_name="mean_reward",
            metric_value=f"{last['mean']:.2f} +/- {last['std']:.2f}",
        )
        for last in evaluations[-1:]
    ]  # fmt: skip
    data = ModelCardData(
        license=license, library_name="ebrl", model_name=name.rpartition("/")[2],
        tags=["energy-based", "safetensors", *([] if energy else ["reinforcement-learning"])],
        eval_results=results or None,
    )  # fmt: skip
    text = CARD.format(
        name=name, title=title, figures=_figures(evaluations), short=name.rpartition("/")[2],
        verb="sample" if energy else "play", maker="fit" if energy else "train",
        system=platform.platform(), python=platform.python_version(),
        versions=", ".join(_versions()), license=license,
    )  # fmt: skip
    return f"---\n{data.to_yaml()}\n---\n{text}"


def _figures(evaluations: list[dict[str, Any]]) -> str:
    """Return a table of the last evaluation."""
    if not evaluations:
        return "Not evaluated."
    last = evaluations[-1]
    return (
        "| steps | episodes | return, mean ± sd |\n|---|---|---|\n"
        f"| {last['timesteps']:,} | {len(last['returns'])} "
        f"| {last['mean']:.2f} ± {last['std']:.2f} |"
    )


def _versions() -> Iterator[str]:
    for package in PACKAGES:
        with suppress(PackageNotFoundError):  # none of this run's
            yield f"{package} {version(package)}"


def _objective(run: Run) -> str:
    """Return the dotted name of the objective that an energy's run trains with."""
    objective = read_tree(run.config)["objective"]
    if not isinstance(objective, dict) or "class_path" not in objective:
        raise UsageError(f"{run.config}: expected a config with objective.class_path.")
    return str(objective["class_path"])


def _is_foreign(run: Run) -> bool:
    """Whether the run's model.zip is Stable-Baselines3's own, a pickle inside."""
    return not trains_energy(run) and not task_of(run).agent.startswith("ebrl.")
