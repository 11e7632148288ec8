"""With one candidate, one component and no moves, EnergyActorCritic is SAC to rounding."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure
from torch import Tensor, nn

from ebrl.agents import EnergyActorCritic
from ebrl.agents.energy_actor_critic import UpdateNoise

UPDATES, BATCH = 5, 64
AS_SAC = {
    "candidates": 1,
    "components": 1,
    "acting_candidates": 1,
    "moves": 0,
    "normalization": None,
    "target": "average",
    "policy_delay": 1,
    "adam_beta1": 0.9,
    "averaging": 0,
}
SETTINGS = {"learning_rate": 1e-3, "batch_size": BATCH, "learning_starts": 0, "seed": 0}


class NoiseTape:
    """The same normal draws for both algorithms: two of each update, in SAC's order."""

    def __init__(self, dimension: int):
        generator = torch.Generator().manual_seed(1)
        self.draws = torch.randn(UPDATES, 2, BATCH, 1, dimension, generator=generator)
        self.position = 0

    def next_standard_normal(self, shape: torch.Size, dtype: torch.dtype, device: str) -> Tensor:
        draw = self.draws.flatten(0, 1)[self.position].reshape(shape)
        self.position += 1
        return draw


def fill(model: SAC | EnergyActorCritic) -> None:
    rng = np.random.default_rng(2)
    space, actions = model.observation_space, model.action_space
    for _ in range(200):
        model.replay_buffer.add(
            rng.normal(size=space.shape).astype(np.float32),
            rng.normal(size=space.shape).astype(np.float32),
            rng.uniform(-1, 1, size=actions.shape).astype(np.float32),
            rng.normal(size=1).astype(np.float32),
            rng.integers(0, 2, size=1).astype(np.float32),
            [{}],
        )


def parameters_of_sac(sac: SAC) -> dict[str, nn.Parameter | list[nn.Parameter]]:
    """Name SAC's parameters after ours; an ensemble's members in a list."""
    layers = {"trunk.0": sac.actor.latent_pi[0], "trunk.2": sac.actor.latent_pi[2]}
    named: dict = {f"proposal.{k}.weight": v.weight for k, v in layers.items()}
    named |= {f"proposal.{k}.bias": v.bias for k, v in layers.items()}
    named["proposal.head.weight"] = [sac.actor.mu.weight, sac.actor.log_std.weight]
    named["proposal.head.bias"] = [sac.actor.mu.bias, sac.actor.log_std.bias]
    for name, critic in (("critic", sac.critic), ("critic_target", sac.critic_target)):
        nets = critic.q_networks
        for layer, ours in ((0, "first"), (2, "hidden"), (4, "head")):
            named[f"{name}.{ours}.weight"] = [net[layer].weight for net in nets]
            named[f"{name}.{ours}.bias"] = [net[layer].bias for net in nets]
    return named


def as_ours(
    name: str, values: list[Tensor] | Tensor, sign: float, actions: int
) -> dict[str, Tensor]:
    """Lay SAC's values out as ours: members stacked, (in, out) weights, E = -Q at the head."""
    if name.startswith("proposal"):  # our head ends with a row for the mixture's weight
        return {name: torch.cat(values) if isinstance(values, list) else values}
    net, layer, kind = name.split(".")
    stacked = torch.stack(list(values))  # (members, out, in) or (members, out)
    stacked = stacked.unsqueeze(1) if kind == "bias" else stacked.mT
    if layer == "head":
        return {f"{net}.energy.head.{kind}": sign * stacked}
    if layer == "hidden":
        return {f"{net}.energy.layers.1.{kind}": stacked}
    if kind == "bias":
        return {f"{net}.energy.condition_layer.bias": stacked}
    return {
        f"{net}.energy.condition_layer.weight": stacked[:, :-actions],
        f"{net}.energy.layers.0.weight": stacked[:, -actions:],
    }


def sac_values(
    sac: SAC, read: Callable[[nn.Parameter], Tensor], sign: float = -1.0
) -> dict[str, Tensor]:
    laid_out: dict[str, Tensor] = {}
    for name, found in parameters_of_sac(sac).items():
        values = [read(p) for p in found] if isinstance(found, list) else read(found)
        laid_out |= as_ours(name, values, sign, sac.action_space.shape[0])
    return laid_out


def moments(model: EnergyActorCritic, network: str, moment: str) -> dict[str, Tensor]:
    net = getattr(model, network)
    return {name: net.optimizer.state[p][moment] for name, p in net.named_parameters()}


class Wide(gym.Env):
    """HalfCheetah's sizes and nothing else."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (17,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (6,), np.float32)


@pytest.mark.parametrize("env", ["Pendulum-v1", Wide()], ids=["pendulum", "wide"])
def test_five_updates_give_sac_parameters_and_moments(env, monkeypatch):
    ours = EnergyActorCritic(
        "MlpPolicy", env, policy_kwargs={"net_arch": [64, 64], "epsilon": 1e-6}, **AS_SAC,
        **SETTINGS,
    )  # fmt: skip
    sac = SAC("MlpPolicy", env, policy_kwargs={"net_arch": [64, 64]}, **SETTINGS)
    fill(ours)
    fill(sac)
    own = dict(ours.policy.named_parameters())
    with torch.no_grad():
        for name, value in sac_values(sac, lambda p: p.detach()).items():
            own[name][: len(value)].copy_(value)

    tape = NoiseTape(ours.action_space.shape[0])
    monkeypatch.setattr("torch.distributions.normal._standard_normal", tape.next_standard_normal)
    sac.set_logger(configure(None, []))
    ours.set_logger(configure(None, []))
    draws, draw = iter(tape.draws), ours._draw

    def replay(rewards: Tensor) -> UpdateNoise:
        first, second = next(draws)
        return draw(rewards)._replace(proposal=first, candidates=second)

    monkeypatch.setattr(ours, "_draw", replay)
    for model in (sac, ours):
        np.random.seed(3)  # noqa: NPY002 (SB3's replay draws its batches from this stream)
        for _ in range(UPDATES):
            model.train(1, BATCH)

    moved = 0.0
    for name, value in sac_values(sac, lambda p: p.detach()).items():
        mine = own[name].detach()[: len(value)]
        torch.testing.assert_close(mine, value, rtol=1e-4, atol=2e-5, msg=name)
    for moment in ("exp_avg", "exp_avg_sq"):
        sac_state = sac.actor.optimizer.state | sac.critic.optimizer.state
        own_state = {
            f"{name}.{parameter}": value
            for name in ("proposal", "critic")
            for parameter, value in moments(ours, name, moment).items()
        }

        def read(p: nn.Parameter, state: dict = sac_state, moment: str = moment) -> Tensor:
            return state[p][moment] if p in state else torch.zeros_like(p)

        sign = -1.0 if moment == "exp_avg" else 1.0  # squares do not know that E = -Q
        for name, value in sac_values(sac, read, sign).items():
            if name.startswith("critic_target"):
                continue
            mine = own_state[name][: len(value)]
            scale = value.abs().max().item()
            torch.testing.assert_close(mine, value, rtol=1e-4, atol=1e-5 * scale, msg=name)
            moved += scale
    assert moved > 0
    torch.testing.assert_close(ours.log_ent_coef.detach(), sac.log_ent_coef.detach())
