"""Agents: native Stable-Baselines3 algorithms whose critic is an energy."""

from ebrl.agents.energy_actor_critic import EnergyActorCritic as EnergyActorCritic
from ebrl.agents.exporting import GreedyPolicy as GreedyPolicy
from ebrl.agents.implicit_cloning import ImplicitCloning as ImplicitCloning
from ebrl.agents.soft_q import SoftQ as SoftQ
