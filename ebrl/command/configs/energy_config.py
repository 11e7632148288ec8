"""The config of `ebrl fit`: its schema is the signatures of what it names, and `FitSettings`.

energy: {class_path: ebrl.networks.MLPEnergy, init_args: {dimension: 2, hidden: [128, 128]}}
data: points.csv
objective: {class_path: ebrl.objectives.EnergyDiscrepancy, init_args: {sigma: 0.25}}
sampler: {kernel: ebrl.kernels.MALA, space: ..., steps: 500}
steps: 1500
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    register_type,
)
from torch import Tensor, nn
from torch.utils.data import Dataset

from ebrl import schedules
from ebrl.command.arguments import LearningRate, PlainHelp, Seed, Threads
from ebrl.command.configs.parsing import parse_config
from ebrl.command.configs.schema import Schema, instantiate
from ebrl.command.devices import device_of
from ebrl.command.errors import UsageError
from ebrl.energies import Energy
from ebrl.objectives import Objective
from ebrl.sampling import Sampler
from ebrl.training import (
    RunningClip,
    Schedule,
    check_fit,
    load_table,
    moving_average,
    take_rows,
)
from ebrl.training.precision import fastest_precision
from ebrl.training.processes import process_count
from ebrl.training.ragged import Ragged
from ebrl.training.shares import check_shares
from ebrl.training.workers import check_workers


def _tensor(numbers: object) -> Tensor:
    """Return a list of numbers as a tensor: a config writes bounds and noise levels as lists."""
    return torch.as_tensor(numbers, dtype=torch.get_default_dtype())


register_type(Tensor, serializer=Tensor.tolist, deserializer=_tensor)


PARTS: dict[str, type | None] = {
    "energy": Energy,
    "data": None,
    "objective": None,  # a protocol
    "sampler": Sampler,
}
FAMILIES: dict[str, type] = {"energy": Energy, "objective": Objective}


@dataclass(frozen=True)
class FitSettings:
    """How a run trains and saves its energy.

    Args:
        steps: Updates of the energy.
        minutes: Longest time of the training; the schedule then follows the clock.
        name: Name of the task in folders and titles; the config file's name if not given.
        run: Folder of the run; `runs/NAME/OBJECTIVE-SEED` if not given.
        seed: Seeds the energy's weights, the order of the data, and all noise.
        batch_size: Rows of the data in each update.
        learning_rate: Learning rate of the optimizer.
        optimizer: `adam`, or `muon`: orthogonal steps for linear layers and convolutions, Adam for
            the rest.
        schedule: The factor of the learning rate at each fraction of the training, 0 to 1.
        ema_decay: Decay of the moving average of the weights, which is saved; 0 saves the last
            weights.
        clip: The largest norm of the gradient, or ebrl.training.RunningClip; none if not given.
        precision: `bfloat16` computes under autocast; `fastest` does so where the
            device multiplies bfloat16 faster than float32.
        shares: Parts of a batch, each with noise and chains of its own; one for each process if not
            given.
        workers: Processes that prepare rows of a dataset in advance, such as images of a folder.
        log_every: Updates between two entries in TensorBoard.
        checkpoint_every: Updates between two checkpoints; one more comes at the end.
        threads: Threads of PyTorch on the CPU.
        device: cpu, cuda, …; a GPU where there is one if not given. A run stays where it began.
    """

    steps: PositiveInt
    minutes: PositiveFloat | None = None
    name: str | None = None
    run: str | None = None
    seed: Seed = 0
    batch_size: PositiveInt = 256
    learning_rate: LearningRate = 1e-3
    optimizer: Literal["adam", "muon"] = "adam"
    schedule: Schedule = schedules.constant
    ema_decay: ClosedUnitInterval = 0.99
    clip: PositiveFloat | RunningClip | None = None
    precision: Literal["float32", "bfloat16", "fastest"] = "float32"
    shares: PositiveInt | None = None
    workers: NonNegativeInt = 0
    log_every: PositiveInt = 50
    checkpoint_every: PositiveInt = 500
    threads: Threads = 1
    device: str | None = None


class FitConfiguration(NamedTuple):
    """A config that was checked: every key known, every value of its type."""

    parsed: Namespace
    text: str  # YAML with every default written out; `read_fit` gives this configuration back

    @property
    def run(self) -> str:
        """The folder of the run."""
        return self.parsed.run

    @property
    def title(self) -> str:
        return f"{self.parsed.name} · {_name(self.parsed.objective)}, seed {self.parsed.seed}"


class Setup(NamedTuple):
    """The parts of a run."""

    energy: Energy
    data: Tensor | Dataset
    objective: Objective
    sampler: Sampler | None
    settings: FitSettings
    device: torch.device


def schema() -> Schema:
    """Return the schema of a config of `ebrl fit`; every key is an option, too."""
    parser = ArgumentParser(
        prog="ebrl fit CONFIG",
        formatter_class=PlainHelp,
        exit_on_error=False,
        allow_abbrev=False,
        print_config="--print_config",
    )
    parser.add_argument("--config", action=ActionConfigFile, help="The config; comes first.")
    parser.add_class_arguments(FitSettings)
    parser.add_subclass_arguments(Energy, "energy", required=True, help="What is trained.")
    parser.add_argument(
        "--data",
        type=str | Dataset,
        required=True,
        help="A file (.npy, .npz, .csv), or the class_path and init_args of a dataset.",
    )
    parser.add_subclass_arguments(Objective, "objective", required=True, help="How it is trained.")
    parser.add_argument(
        "--sampler", type=Sampler | None, default=None, help="Draws the samples that are shown."
    )
    required = ("energy", "data", "objective")
    return Schema("fit", parser, FitSettings, PARTS, required, FAMILIES)


def read_fit(path: Path, options: Sequence[str] = (), *, trust: bool = False) -> FitConfiguration:
    """Check a config file, changed by options such as `--learning_rate 1e-3`.

    Args:
        path: The file.
        options: From the command line.
        trust: Whether the config may name code of any package, as it may for `ebrl fit`.

    Raises:
        UsageError: If the file is missing or no config, a key is unknown, a value is of the wrong
            type, or the config names code that is not trusted.
    """
    known = schema()
    parsed = parse_config(known, path, options, trust)
    if isinstance(parsed.data, str):  # so that the run can be resumed from anywhere
        parsed.data = str(Path(parsed.data).resolve())
    if parsed.shares is None:
        parsed.shares = process_count()
    if parsed.run is None:
        parsed.run = f"runs/{parsed.name}/{_name(parsed.objective)}-{parsed.seed}"
    if parsed.device is None:  # a resumed run keeps its device and precision
        parsed.device = str(device_of(None))
    if parsed.precision == "fastest":
        parsed.precision = fastest_precision(device_of(parsed.device))
    return FitConfiguration(parsed, known.parser.dump(parsed))


def build(configuration: FitConfiguration, device: torch.device | None = None) -> Setup:
    """Make the parts of a run, untrained. The same config gives the same parts.

    Args:
        configuration: Configuration of the run.
        device: Where the run computes, in place of the config's device.

    Raises:
        UsageError: If a part refuses its arguments, the data cannot be read, energy and data do not
            fit together, or this machine lacks the device.
    """
    parsed = configuration.parsed
    torch.set_num_threads(parsed.threads)
    torch.manual_seed(parsed.seed)
    try:
        made = {name: instantiate(parsed[name]) for name in PARTS}
        if isinstance(made["data"], str):
            made["data"] = load_table(made["data"])
        check_sentences(made["energy"], made["data"])
        check_fit(made["energy"], made["data"], parsed.batch_size, made["objective"])
        check_shares(parsed.shares, made["objective"], parsed.batch_size)
        check_workers(parsed.workers, made["data"])
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
        raise UsageError(f"{configuration.title}: {error}.") from error
    settings = FitSettings(**{f.name: instantiate(parsed[f.name]) for f in fields(FitSettings)})
    device = device or device_of(settings.device)
    for part in made.values():
        if isinstance(part, nn.Module):
            part.to(device)
    return Setup(settings=settings, device=device, **made)


def check_sentences(energy: Energy, data: object) -> None:
    """Raise `ValueError` for a text with tokens or lengths that a transformer does not know."""
    if not isinstance(data, Ragged):
        return
    from ebrl.sequences.energies import TransformerEnergy
    from ebrl.sequences.text import Text

    if not (isinstance(data, Text) and isinstance(energy, TransformerEnergy)):
        return
    tokens, known = data.tokenizer.vocabulary, energy.transformer.vocabulary
    if tokens > known:
        raise ValueError(
            f"expected a transformer of at least {tokens} tokens, got {known}: "
            f"--energy.transformer.vocabulary {tokens}, or --data.vocabulary {known}"
        )
    if (longest := int(data.lengths.max())) > energy.longest:
        raise ValueError(
            f"expected sentences of at most {energy.longest} tokens, got one of {longest}: "
            f"--data.longest {energy.longest}, or --energy.transformer.context {longest + 2}"
        )


def expect_working(configuration: FitConfiguration, setup: Setup) -> None:
    """Raise UsageError if the parts of a run do not fit, by one step and one sample of copies."""
    settings, generator = setup.settings, torch.Generator(setup.device).manual_seed(0)
    x, condition = take_rows(setup.data, torch.arange(settings.batch_size), setup.device)
    try:
        energy, objective, sampler = deepcopy((setup.energy, setup.objective, setup.sampler))
        with torch.random.fork_rng(devices=[]):
            settings.schedule(0.0)
            objective(energy, x, condition, generator=generator)
            moving_average(energy, settings.ema_decay)
            if sampler is not None and not energy.takes_condition:
                sampler.steps = min(sampler.steps, 1)
                sampler.sample(energy, n=1, generator=generator)
    except (ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise UsageError(f"{configuration.title}: {error}.") from error


def _name(part: Namespace) -> str:
    return part.class_path.rpartition(".")[2]
