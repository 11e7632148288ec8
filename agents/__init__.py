"""Agents: native Stable-Baselines3 algorithms whose critic is an energy."""
