"""`ebrl fit CONFIG`: train an energy on data into a new run folder."""

from __future__ import annotations

from pathlib import Path

HELP = """usage: ebrl fit CONFIG [--KEY VALUE ...]

Train an energy. CONFIG is a YAML file, or the name of one that comes with ebrl: `ebrl fit` lists
them. The run becomes a folder, runs/NAME/OBJECTIVE-SEED or --run FOLDER, that holds

  config.yaml            every key with its value
  checkpoints/           the newest two; `ebrl resume` goes on from them, bit for bit
  model.zip              the trained weights, for ebrl.storage.load
  plot.png               for data on a line or in the plane: the landscape with samples on it
  events.out.tfevents*   curves for TensorBoard
  language.safetensors   for text: the language, for `ebrl score --model RUN`

A config names the energy, the data, the objective, and the sampler that draws samples to show:

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
  ebrl fit fit/two_moons
  ebrl fit fit/two_moons --data points.csv --name points
  ebrl fit fit/two_moons --seed 3 --steps 5000 --learning_rate 3e-4
  ebrl fit fit/two_moons --energy.hidden [256,256]
  ebrl fit fit/two_moons --print_config                        every key with its value
  ebrl fit fit/two_moons --energy.help MLPEnergy               the arguments of an energy
  ebrl fit vision/gray --data.folders "[my/photographs]" --data.leave_out 0    a denoiser, in hours
  ebrl fit sequences/text --data.path my.txt                   a small language
  ebrl fit fit/two_moons --devices 2                           two processes share each batch
  torchrun --nproc-per-node 2 -m ebrl fit fit/two_moons        the same, on many machines too

Processes of `--devices` or torchrun average their gradients (PyTorch's DistributedDataParallel).
Each takes a share of the batch, with noise and chains of its own. `shares` in the config is the
number of shares: any number of processes that divides it trains the same energy.

Ctrl-C saves before it stops; `ebrl resume RUN` goes on to the same result, bit for bit.
"""


def main(arguments: list[str]) -> int:
    """Train from the config in `arguments[0]`, changed by the options after it."""
    from ebrl.command.training.verbs import config_and_options, print_configs, print_help

    if not arguments:
        return print_configs("fit")
    from ebrl.command.configs.energy_config import build, expect_working, read_fit, schema

    if arguments[0] in ("-h", "--help"):
        return print_help(HELP, schema())
    path, options = config_and_options("fit", arguments)
    from ebrl.command.runs.folder import Run, new_run
    from ebrl.command.training.energy_training import train_to_end
    from ebrl.command.training.processes import joined, take_devices, train_in

    devices, options = take_devices(options)
    if devices > 1:
        return train_in(devices, ["fit", str(path), *options])
    with joined() as rank:
        configuration = read_fit(path, options, trust=True)
        setup = build(configuration)
        expect_working(configuration, setup)
        if rank > 0:
            return train_to_end(configuration, setup, Run(Path(configuration.run)))
        with new_run(configuration.run, configuration.text) as run:
            return train_to_end(configuration, setup, run)
