"""`ebrl fit CONFIG.yaml`: train an energy on data into a new run folder."""

from __future__ import annotations

from ebrl.command.errors import UsageError

HELP = """usage: ebrl fit CONFIG.yaml [--KEY VALUE ...]

Train an energy. The run becomes a folder (runs/NAME/OBJECTIVE-SEED, or --run FOLDER) with the
resolved config, TensorBoard events, checkpoints, the trained weights and, for data on a line or in
the plane, a picture of the landscape with samples on it.

A config names the energy, the data, the objective, and the sampler of the samples to show:

  energy: {class_path: ebrl.networks.MLPEnergy, init_args: {dimension: 2}}
  data: points.csv                                   # .npy, .npz, .csv: a row a point
  objective: {class_path: ebrl.objectives.EnergyDiscrepancy, init_args: {sigma: 0.25}}
  sampler:
    kernel: ebrl.kernels.MALA
    space: {class_path: ebrl.spaces.Box, init_args: {low: [-3, -3], high: [3, 3]}}
    steps: 500
    adaptation: ebrl.DualAveraging
  steps: 1500

Spaces with a shape: `ebrl.command.spaces.Unbounded` and `Binary`, `init_args: {shape: [2]}`.

examples:
  ebrl fit configs/fit/two_moons.yaml
  ebrl fit configs/fit/two_moons.yaml --data points.csv --name points
  ebrl fit configs/fit/two_moons.yaml --seed 3 --steps 5000 --learning_rate 3e-4
  ebrl fit configs/fit/two_moons.yaml --energy.hidden [256,256]
  ebrl fit configs/fit/two_moons.yaml --print_config            every key with its value

Ctrl-C saves before it stops; `ebrl resume RUN` goes on to the same result, bit for bit.
"""


def main(arguments: list[str]) -> int:
    """Train from the config in `arguments[0]`, changed by the options after it."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        if arguments:
            from ebrl.command.energy_config import parser

            print(parser().format_help())
        return 0 if arguments else 2
    config, *options = arguments
    if config.startswith("-"):
        raise UsageError(f"the config comes first: ebrl fit CONFIG.yaml {' '.join(arguments)}")
    from ebrl.command.energy_config import build, expect_working, read_fit
    from ebrl.command.energy_training import train_to_end
    from ebrl.command.runs import create, sole_writer

    configuration = read_fit(config, options)
    setup = build(configuration)
    expect_working(configuration, setup)
    run = create(configuration.run, configuration.text)
    with sole_writer(run):
        return train_to_end(configuration, setup, run)
