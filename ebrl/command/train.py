"""`ebrl train CONFIG.yaml`: train an agent into a new run folder."""

from __future__ import annotations

from ebrl.command.errors import UsageError

HELP = """usage: ebrl train CONFIG.yaml [--KEY VALUE ...]

Train an agent. The run becomes a folder (runs/NAME/AGENT-SEED, or --run FOLDER) with the resolved
config, TensorBoard events, checkpoints, evaluations, the trained agent and a picture.

A config names the agent, its arguments, and what the run needs besides:

  agent:
    class_path: ebrl.agents.EnergyActorCritic      # or stable_baselines3.SAC, TD3, DQN, ...
    init_args: {policy: MlpPolicy, env: Pendulum-v1, learning_rate: 1.0e-3}
  total_timesteps: 10000

examples:
  ebrl train configs/pendulum.yaml
  ebrl train configs/pendulum.yaml --seed 3 --total_timesteps 20000
  ebrl train configs/pendulum.yaml --agent.learning_rate 3e-4 --agent.policy_kwargs.net_arch [64,64]
  ebrl train configs/pendulum.yaml --agent stable_baselines3.SAC     the same task, SB3's SAC
  ebrl train configs/pendulum.yaml --print_config                    every key with its value

Ctrl-C saves before it stops; `ebrl resume RUN` goes on to the same result, bit for bit.
"""


def main(arguments: list[str]) -> int:
    """Train from the config in `arguments[0]`, changed by the options after it."""
    if not arguments or arguments[0] in ("-h", "--help"):
        from ebrl.command.agent_config import parser

        print(HELP)
        print(parser().format_help())
        return 0 if arguments else 2
    config, *options = arguments
    if config.startswith("-"):
        raise UsageError(f"the config comes first: ebrl train CONFIG.yaml {' '.join(arguments)}")
    from ebrl.command.agent_config import read
    from ebrl.command.agent_training import build, train_to_end
    from ebrl.command.runs import create, sole_writer

    configuration = read(config, options)
    agent = build(configuration)
    run = create(configuration.run, configuration.text)
    with sole_writer(run):
        return train_to_end(agent, configuration, run, resumed=None)
