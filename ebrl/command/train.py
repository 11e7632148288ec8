"""`ebrl train CONFIG`: train an agent into a new run folder."""

from __future__ import annotations

HELP = """usage: ebrl train CONFIG [--KEY VALUE ...]

Train an agent. CONFIG is a YAML file, or the name of one that comes with ebrl: `ebrl train` lists
them. The run becomes a folder, runs/NAME/AGENT-SEED or --run FOLDER, that holds

  config.yaml            every key with its value
  checkpoints/           the newest two; `ebrl resume` goes on from them, bit for bit
  evaluations.*          every evaluation: .json, .npz as SB3 writes it, .csv for a table
  model.zip              the trained agent, for AGENT.load
  best_model.zip         with --best: the agent of the best evaluation
  plot.png               the learning curve, and the energies that the policy samples from
  events.out.tfevents*   curves for TensorBoard
  normalization.json     with --normalize: mean and variance of the observations

A config names the agent, its arguments, and what the run needs besides:

  agent:
    class_path: ebrl.agents.EnergyActorCritic      # or stable_baselines3.SAC, TD3, DQN, ...
    init_args: {policy: MlpPolicy, env: Pendulum-v1, learning_rate: 1.0e-3}
  total_timesteps: 10000

examples:
  ebrl train pendulum
  ebrl train pendulum --seed 3 --total_timesteps 20000
  ebrl train my/config.yaml --agent.learning_rate 3e-4 --agent.policy_kwargs.net_arch [64,64]
  ebrl train pendulum --agent stable_baselines3.SAC            the same task, SB3's SAC
  ebrl train pendulum --offline swings.npz                     on what `ebrl collect` wrote, alone
  ebrl train pendulum --prefill minari:pendulum/swings-v0      a replay that starts with a dataset
  ebrl train pendulum --print_config                           every key with its value
  ebrl train pendulum --agent.help SoftQ                       the arguments of an agent

Ctrl-C saves before it stops; `ebrl resume RUN` goes on to the same result, bit for bit.
"""


def main(arguments: list[str]) -> int:
    """Train from the config in `arguments[0]`, changed by the options after it."""
    from ebrl.command.training.verbs import config_and_options, print_configs, print_help

    if not arguments:
        return print_configs("train")
    from ebrl.command.configs.agent_config import read, schema

    if arguments[0] in ("-h", "--help"):
        return print_help(HELP, schema())
    path, options = config_and_options("train", arguments)
    from ebrl.command.runs.folder import new_run
    from ebrl.command.training.agent_training import build, train_to_end
    from ebrl.command.training.offline import fill_replay

    configuration = read(path, options, trust=True)
    agent = build(configuration)
    fill_replay(agent, configuration)
    with new_run(configuration.run, configuration.text) as run:
        return train_to_end(agent, configuration, run, resumed=None)
