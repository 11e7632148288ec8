"""The config of `ebrl fit`: its schema are the signatures of what it names, and `Settings`.

energy: {class_path: ebrl.networks.MLPEnergy, init_args: {dimension: 2, hidden: [128, 128]}}
data: points.csv
objective: {class_path: ebrl.objectives.EnergyDiscrepancy, init_args: {sigma: 0.25}}
sampler: {kernel: ebrl.kernels.MALA, space: ..., steps: 500}
steps: 1500
"""

from __future__ import annotations

import re
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
from torch import Tensor
from torch.utils.data import Dataset

from ebrl import schedules
from ebrl.command.config_files import parse_config
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


def _tensor(numbers: object) -> Tensor:
    """Bounds and noise levels are tensors; a config writes them as lists, of whole numbers too."""
    return torch.as_tensor(numbers, dtype=torch.get_default_dtype())


register_type(Tensor, serializer=Tensor.tolist, deserializer=_tensor)

# What jsonargparse says of each type that a value could have had.
ATTEMPT = re.compile(r"^ *- (.*)", re.MULTILINE)
OF_ANOTHER_TYPE = re.compile("Does not validate|Expected a <|Import path .* not correspond")

PARTS = ("energy", "data", "objective", "sampler")


@dataclass(frozen=True)
class Settings:
    """How a run trains and keeps its energy.

    Args:
        steps: Updates of the energy.
        name: Name of the task in folders and titles; the config file's name if not given.
        run: Folder of the run; `runs/NAME/OBJECTIVE-SEED` if not given.
        seed: Seeds the energy's weights, the order of the data, and all noise.
        batch_size: Rows of the data an update.
        learning_rate: Of Adam.
        schedule: The part of the learning rate at each part of the training: a function of 0 to 1.
        ema_decay: Of the moving average of the weights, which is what is kept; 0 for the last ones.
        clip: The largest norm of the gradient, or ebrl.training.RunningClip; none if not given.
        precision: `bfloat16` computes under autocast.
        log_every: Updates between two entries in TensorBoard.
        checkpoint_every: Updates between two checkpoints; one more comes at the end.
        threads: Threads of PyTorch on the CPU.
    """

    steps: PositiveInt
    name: str | None = None
    run: str | None = None
    seed: NonNegativeInt = 0
    batch_size: PositiveInt = 256
    learning_rate: PositiveFloat = 1e-3
    schedule: Schedule = schedules.constant
    ema_decay: ClosedUnitInterval = 0.99
    clip: PositiveFloat | RunningClip | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    log_every: PositiveInt = 50
    checkpoint_every: PositiveInt = 500
    threads: PositiveInt = 1


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
    """What a run is built of."""

    energy: Energy
    data: Tensor | Dataset
    objective: Objective
    sampler: Sampler | None
    settings: Settings


def parser() -> ArgumentParser:
    """The parser of `ebrl fit`: everything that a config may say, also as an option."""
    schema = ArgumentParser(
        prog="ebrl fit CONFIG.yaml",
        exit_on_error=False,
        allow_abbrev=False,
        print_config="--print_config",
    )
    schema.add_argument("--config", action=ActionConfigFile, help="The config; comes first.")
    schema.add_class_arguments(Settings)
    schema.add_subclass_arguments(Energy, "energy", required=True, help="What is trained.")
    schema.add_argument(
        "--data",
        type=str | Dataset,
        required=True,
        help="A file (.npy, .npz, .csv), or the class_path of a dataset or what makes one.",
    )
    schema.add_subclass_arguments(Objective, "objective", required=True, help="How it is trained.")
    schema.add_argument(
        "--sampler", type=Sampler | None, default=None, help="Draws the samples that are shown."
    )
    return schema


def read_fit(config: str | Path, options: Sequence[str] = ()) -> FitConfiguration:
    """Check the file `config`, changed by `options` such as `--learning_rate 1e-3`.

    Raises UsageError for a missing file, bad YAML, an unknown key or a value of the wrong type.
    """
    schema = parser()
    top_level = {field.name for field in fields(Settings)} | set(PARTS)
    parsed = parse_config(schema, config, options, top_level)
    if isinstance(parsed.data, str):  # so that the run can be resumed from anywhere
        parsed.data = str(Path(parsed.data).resolve())
    if parsed.run is None:
        parsed.run = f"runs/{parsed.name}/{_name(parsed.objective)}-{parsed.seed}"
    return FitConfiguration(parsed, schema.dump(parsed))


def build(configuration: FitConfiguration) -> Setup:
    """Make the parts of a run, untrained. The same config gives the same parts.

    Raises UsageError where a part refuses its arguments, the data cannot be read, or energy and
    data do not fit together.
    """
    parsed = configuration.parsed
    torch.set_num_threads(parsed.threads)
    torch.manual_seed(parsed.seed)
    try:
        made = _instantiate(parsed)
        data = load_table(made.data) if isinstance(made.data, str) else made.data
        check_fit(made.energy, data, parsed.batch_size, made.objective)
    except (ValueError, TypeError, OSError) as error:
        raise UsageError(f"{configuration.title}: {error}.") from error
    settings = Settings(**{field.name: made[field.name] for field in fields(Settings)})
    return Setup(made.energy, data, made.objective, made.sampler, settings)


def _instantiate(parsed: Namespace) -> Namespace:
    try:
        return parser().instantiate(parsed)
    except (ValueError, TypeError) as error:
        raise ValueError(_what_a_part_said(error)) from error


def expect_working(configuration: FitConfiguration, setup: Setup) -> None:
    """Raise UsageError where the parts of a run do not fit, by a step and a sample of copies."""
    energy, objective, sampler = deepcopy((setup.energy, setup.objective, setup.sampler))
    settings, generator = setup.settings, torch.Generator().manual_seed(0)
    x, condition = take_rows(setup.data, torch.arange(settings.batch_size), torch.device("cpu"))
    try:
        with torch.random.fork_rng(devices=[]):
            settings.schedule(0.0)
            objective(energy, x, condition, generator=generator)
            if settings.ema_decay:
                moving_average(energy, settings.ema_decay)
            if sampler is not None and not energy.takes_condition:
                sampler.sample(energy, n=1, generator=generator)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"{configuration.title}: {error}.") from error


def _what_a_part_said(error: BaseException) -> str:
    """Unwrap what a constructor said from what jsonargparse says around it."""
    attempts = [said for said in ATTEMPT.findall(str(error)) if not OF_ANOTHER_TYPE.match(said)]
    if attempts:
        return attempts[-1]
    return str(error) if error.__cause__ is None else _what_a_part_said(error.__cause__)


def _name(part: Namespace) -> str:
    return part.class_path.rpartition(".")[2]
