"""What the agents learn on worlds whose optimal soft policy is known exactly.

    python benchmarks/exact_worlds.py --out benchmarks/results/exact_worlds    # resumes

EnergyActorCritic learns every shape of `Bandit-v0` in 1 and 2 dimensions with one setting, SoftQ
learns `Chain-v0`, each from its own experience at a fixed temperature. Prints tables and writes
them as OUT.md, every figure as OUT.json. A bandit's error has two parts, shown apart: the learnt
energy's own Boltzmann density (by quadrature) against the exact one is the critic's, and draws of
`sample_actions` against the learnt energy's density the sampler's. The second and the total contain
the noise of a histogram of 20,000 draws; `floor` is its exact mean for a perfect sampler.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from ebrl.agents import EnergyActorCritic, SoftQ
from ebrl.agents.soft_q_policy import boltzmann
from ebrl.envs import (
    SHAPES,
    ChainEnv,
    bandit_histogram,
    evaluate_chain,
    mode_index,
    solve_bandit,
    solve_chain,
    total_variation,
    total_variation_floor,
)
from ebrl.estimators import soft_value

DRAWS, CHUNK = 20_000, 1_000  # of `sample_actions`; a chunk's candidates stay in the cache
CELLS, ORDER = {1: 50, 2: 20}, 10  # cells an axis by dimension, quadrature nodes a cell and axis
CRITERION = 0.05  # of total variation above the floor, and of a mode's weight
SILENT = 10**9  # episodes between logs: an episode of a bandit is one step
CONTEXT = np.ones(1, dtype=np.float32)

BANDIT_STEPS, BANDIT_TEMPERATURE = 16_000, 0.2
BANDIT_LEARNING_RATE = 1e-2  # to 0, linearly
BANDIT_AGENT: dict[str, Any] = {
    "n_envs": 32,
    "gradient_steps": 12,
    "learning_starts": 2_400,  # uniform actions: the critic must know where no policy goes
    "batch_size": 64,
    "candidates": 1,  # of the next observation's value, which an episode of one step never uses
    "components": 4,
    "acting_candidates": 64,
    "moves": 10,  # without them banana's thin tails, where no candidate falls, are never sampled
    "net_arch": {"pi": [64, 64], "qf": [64, 64, 64]},
    # Reverse KL makes proposals narrower than the policy, whose tails they then miss: kept wider.
    "log_deviation_bounds": [-1.0, 2.0],
    # An episode is one step: there is no next value to be stable about, and the energy is smooth.
    "normalization": None,
    "policy_delay": 1,
    "adam_beta1": 0.9,
}
CHAIN_STEPS, CHAIN_TEMPERATURE, CHAIN_DISCOUNT = 24_000, 0.1, 0.95
CHAIN_LEARNING_RATE = 0.05  # to 0, linearly
CHAIN_AGENT: dict[str, Any] = {
    "n_envs": 8,
    "learning_starts": 4_000,
    "batch_size": 256,
    "tau": 0.1,
    "train_freq": 1,
    "net_arch": [],  # on one-hot observations a linear layer is a table
}


class Density(NamedTuple):
    """The Boltzmann density of an energy on the box, by quadrature."""

    value: float
    entropy: float
    probabilities: NDArray[np.float64]  # (cells,) * dimension


class Estimate(NamedTuple):
    """Soft value and entropy of an energy from independent draws of the proposal."""

    value: float
    value_se: float
    entropy: float
    entropy_se: float
    effective_sample_size: float  # of DRAWS candidates


def train_bandit(
    shape: str, dimension: int, seed: int, steps: int = BANDIT_STEPS, **changes: Any
) -> EnergyActorCritic:
    """Learn one bandit; `changes` replace entries of `BANDIT_AGENT`."""
    agent = {**BANDIT_AGENT, **changes}
    environments = make_vec_env(
        lambda: gym.make("ebrl.envs:Bandit-v0", shape=shape, dimension=dimension),
        n_envs=agent.pop("n_envs"),
        seed=seed,
    )
    policy = {name: agent.pop(name) for name in ("net_arch", "log_deviation_bounds")}
    model = EnergyActorCritic(
        "MlpPolicy",
        environments,
        learning_rate=LinearSchedule(BANDIT_LEARNING_RATE, 0.0, 1.0),
        buffer_size=steps,
        ent_coef=BANDIT_TEMPERATURE,
        policy_kwargs={**policy, "activation_fn": nn.SiLU},
        seed=seed,
        device="cpu",
        **agent,
    )
    return model.learn(steps, log_interval=SILENT)


def density(model: EnergyActorCritic, temperature: float, cells: int) -> Density:
    """Integrate the learnt energy, ORDER Gauss-Legendre nodes in each cell and axis."""
    dimension = model.proposal.dimension
    nodes, node_weights = np.polynomial.legendre.leggauss(ORDER)  # on [-1, 1]
    centres = (2 * np.arange(cells) + 1) / cells - 1
    axis = (centres[:, None] + nodes / cells).ravel()  # (cells * ORDER,)
    weights = np.tile(node_weights / cells, cells)
    grid = np.stack(np.meshgrid(*[axis] * dimension, indexing="ij"), -1)  # (n,) * d + (d,)
    volume = weights if dimension == 1 else np.multiply.outer(weights, weights)
    energy = model.energy(CONTEXT, grid.reshape(-1, dimension)).astype(np.float64)
    energy = energy.reshape(volume.shape)
    lowest = energy.min()
    mass = np.exp((lowest - energy) / temperature) * volume
    value = float(temperature * np.log(mass.sum()) - lowest)
    mass /= mass.sum()
    binned = mass.reshape((cells, ORDER) * dimension).sum(axis=tuple(range(1, 2 * dimension, 2)))
    return Density(value, float((value + (mass * energy).sum()) / temperature), binned)


@torch.no_grad()
def estimate(model: EnergyActorCritic, seed: int) -> Estimate:
    """Estimate soft value and entropy of the learnt energy from DRAWS candidates."""
    stream = torch.Generator().manual_seed(seed)
    observation = torch.as_tensor(CONTEXT).unsqueeze(0)
    temperature = model.policy.temperature
    mixture = model.proposal(observation.expand(DRAWS, -1))  # one draw of each: independent
    offset = torch.rand(DRAWS, 1, generator=stream)
    normal = torch.randn(DRAWS, 1, model.proposal.dimension, generator=stream)
    free = mixture.systematic(offset, normal)  # (DRAWS, 1, d)
    energy = model.critic.given(observation)(torch.tanh(free).view(1, DRAWS, -1))  # (1, DRAWS)
    soft = soft_value(energy, mixture.log_density(free).view(1, DRAWS), temperature)
    # The delta method on log mean w + mean (w E/T) / mean w.
    scaled = energy / temperature
    centred = 1 + scaled - (soft.weights * scaled).sum(-1, keepdim=True)
    influence = DRAWS * soft.weights * centred - 1  # (1, DRAWS), mean 0
    return Estimate(
        value=soft.value.item(),
        value_se=soft.standard_error.item(),
        entropy=soft.entropy.item(),
        entropy_se=influence.std().item() / DRAWS**0.5,
        effective_sample_size=soft.effective_sample_size.item(),
    )


def measure_bandit(
    model: EnergyActorCritic, shape: str, dimension: int, seed: int
) -> dict[str, Any]:
    """Compare a trained agent with the exact answer."""
    exact = solve_bandit(shape, dimension, BANDIT_TEMPERATURE, cells=CELLS[dimension])
    learnt = density(model, BANDIT_TEMPERATURE, CELLS[dimension])
    draws = [model.sample_actions(CONTEXT, CHUNK) for _ in range(DRAWS // CHUNK)]
    actions = np.concatenate(draws)
    drawn = bandit_histogram(exact, actions)
    share = float((mode_index(shape, actions) == 0).mean())
    return {
        "shape": shape,
        "dimension": dimension,
        "seed": seed,
        **estimate(model, seed)._asdict(),
        "learnt_value": learnt.value,
        "learnt_entropy": learnt.entropy,
        "exact_value": exact.value,
        "exact_entropy": exact.entropy,
        "total_variation": total_variation(drawn, exact.probabilities),
        "floor": total_variation_floor(exact.probabilities, DRAWS),
        "critic_total_variation": total_variation(learnt.probabilities, exact.probabilities),
        "sampler_total_variation": total_variation(drawn, learnt.probabilities),
        "mode_weight": share,
        "mode_weight_se": (share * (1 - share) / DRAWS) ** 0.5,
        "exact_mode_weight": float(exact.mode_weights[0]),
    }


def train_chain(seed: int, steps: int = CHAIN_STEPS) -> SoftQ:
    agent = dict(CHAIN_AGENT)
    environments = make_vec_env(
        lambda: gym.make("ebrl.envs:Chain-v0"), n_envs=agent.pop("n_envs"), seed=seed
    )
    model = SoftQ(
        "MlpPolicy",
        environments,
        learning_rate=LinearSchedule(CHAIN_LEARNING_RATE, 0.0, 1.0),
        buffer_size=steps,
        gamma=CHAIN_DISCOUNT,
        ent_coef=CHAIN_TEMPERATURE,
        policy_kwargs={"net_arch": agent.pop("net_arch")},
        seed=seed,
        device="cpu",
        **agent,
    )
    return model.learn(steps, log_interval=SILENT)


def measure_chain(model: SoftQ, seed: int) -> dict[str, Any]:
    """Compare with soft value iteration over the states where somebody acts; no sampling."""
    world = ChainEnv().model()
    exact = solve_chain(world, CHAIN_DISCOUNT, CHAIN_TEMPERATURE)
    energies = model.policy.energies(torch.eye(len(world.acting))).double()  # (S, A)
    learnt = boltzmann(energies, torch.tensor(CHAIN_TEMPERATURE, dtype=torch.float64))
    value = np.where(world.acting, learnt.soft_value.numpy(), 0.0)
    policy = learnt.log_probabilities.exp().numpy()
    acting = world.acting
    backup = world.reward + CHAIN_DISCOUNT * world.transition @ value  # (S, A)
    distances = 0.5 * np.abs(policy - exact.policy).sum(-1)[acting]
    earned = evaluate_chain(world, policy, CHAIN_DISCOUNT, CHAIN_TEMPERATURE).value
    return {
        "seed": seed,
        "start_value": float(world.start @ value),
        "exact_start_value": exact.start_value,
        "value_error": float(np.abs(value - exact.value)[acting].max()),
        "mean_entropy": float(learnt.entropy.numpy()[acting].mean()),
        "exact_mean_entropy": float(exact.entropy[acting].mean()),
        "entropy_error": float(np.abs(learnt.entropy.numpy() - exact.entropy)[acting].max()),
        "total_variation": float(distances.max()),
        "mean_total_variation": float(distances.mean()),
        "residual": float(np.abs(backup + energies.numpy())[acting].max()),
        "loss": float((exact.value - earned)[acting].max()),
    }


def passes(row: dict[str, Any]) -> bool:
    """Say whether a bandit's policy is within the criterion of a perfect sampler's."""
    wrong_weight = abs(row["mode_weight"] - row["exact_mode_weight"])
    return row["total_variation"] - row["floor"] <= CRITERION and wrong_weight <= CRITERION


BANDIT_HEADER = (
    "| bandit | seed | soft value | exact | entropy | exact | total variation of draws | floor "
    "| critic's part | sampler's part | mode weight | exact |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)
CHAIN_HEADER = (
    "| chain | value at the start | exact | largest value error | mean entropy | exact "
    "| largest entropy error | policy's total variation, mean | largest | largest soft-Bellman "
    "residual | lost soft value |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def bandit_line(row: dict[str, Any]) -> str:
    modes = " | "
    if SHAPES[row["shape"]].modes > 1:
        weight, error = row["mode_weight"], row["mode_weight_se"]
        modes = f"{weight:.3f} ± {error:.3f} | {row['exact_mode_weight']:.3f}"
    return (
        f"| {row['shape']}, {row['dimension']}-D | {row['seed']} "
        f"| {row['value']:.4f} ± {row['value_se']:.4f} | {row['exact_value']:.4f} "
        f"| {row['entropy']:.3f} ± {row['entropy_se']:.3f} | {row['exact_entropy']:.3f} "
        f"| {row['total_variation']:.3f}{'' if passes(row) else ' (misses)'} | {row['floor']:.3f} "
        f"| {row['critic_total_variation']:.3f} | {row['sampler_total_variation']:.3f} | {modes} |"
    )


def chain_line(row: dict[str, Any]) -> str:
    return (
        f"| seed {row['seed']} | {row['start_value']:.4f} | {row['exact_start_value']:.4f} "
        f"| {row['value_error']:.4f} | {row['mean_entropy']:.4f} | {row['exact_mean_entropy']:.4f} "
        f"| {row['entropy_error']:.4f} | {row['mean_total_variation']:.4f} "
        f"| {row['total_variation']:.4f} | {row['residual']:.4f} | {row['loss']:.5f} |"
    )


def report(record: dict[str, Any]) -> str:
    bandits, chains = record["bandits"], record["chains"]
    passed = sum(passes(row) for row in bandits)
    order = list(SHAPES)
    bandits = sorted(bandits, key=lambda r: (order.index(r["shape"]), r["dimension"], r["seed"]))
    return "\n".join(
        [
            f"EnergyActorCritic on Bandit-v0, temperature {BANDIT_TEMPERATURE}: {passed} of "
            f"{len(bandits)} runs have a total variation within {CRITERION} of a perfect sampler's "
            f"and mode weights within {CRITERION}. {BANDIT_STEPS:,} steps each; {DRAWS:,} draws on "
            f"{CELLS[1]} cells (1-D) and {CELLS[2]} x {CELLS[2]} (2-D); value and entropy from "
            f"{DRAWS:,} candidates; ± is one standard error.",
            "",
            BANDIT_HEADER,
            *map(bandit_line, bandits),
            "",
            f"SoftQ on Chain-v0, temperature {CHAIN_TEMPERATURE}, discount {CHAIN_DISCOUNT}: "
            f"{CHAIN_STEPS:,} steps each; mean and largest are over the 6 states between the ends; "
            "sums over actions are exact, nothing is sampled.",
            "",
            CHAIN_HEADER,
            *map(chain_line, sorted(chains, key=lambda row: row["seed"])),
        ]
    )


def settings() -> dict[str, Any]:
    return {
        "bandit": {
            "steps": BANDIT_STEPS,
            "temperature": BANDIT_TEMPERATURE,
            "learning_rate": BANDIT_LEARNING_RATE,
            "activation": "SiLU",
            **BANDIT_AGENT,
        },
        "chain": {
            "steps": CHAIN_STEPS,
            "temperature": CHAIN_TEMPERATURE,
            "discount": CHAIN_DISCOUNT,
            "learning_rate": CHAIN_LEARNING_RATE,
            **CHAIN_AGENT,
        },
        "draws": DRAWS,
        "cells": [CELLS[1], CELLS[2]],
        "torch": torch.__version__,
    }


def load(path: Path) -> dict[str, Any]:
    """Return the finished runs of these settings; of others, none."""
    if path.exists():
        record = json.loads(path.read_text())
        if record["settings"] == settings():
            return record
    return {"settings": settings(), "bandits": [], "chains": []}


def save(record: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(temporary, path)


def run_missing(path: Path, worlds: list[tuple[str, int]], seeds: list[int]) -> dict[str, Any]:
    record = load(path)
    done = {(row["shape"], row["dimension"], row["seed"]) for row in record["bandits"]}
    done_chains = {row["seed"] for row in record["chains"]}
    for seed in seeds:
        if seed not in done_chains:
            record["chains"].append(measure_chain(train_chain(seed), seed))
            save(record, path)
            print(chain_line(record["chains"][-1]), flush=True)
        for shape, dimension in worlds:
            if (shape, dimension, seed) not in done:
                model = train_bandit(shape, dimension, seed)
                record["bandits"].append(measure_bandit(model, shape, dimension, seed))
                save(record, path)
                print(bandit_line(record["bandits"][-1]), flush=True)
    return record


def main() -> None:
    every = [(name, d) for name, shape in SHAPES.items() for d in shape.dimensions]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/exact_worlds"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    worlds = [world for world in every if world[0] in arguments.shapes]
    text = report(run_missing(arguments.out.with_suffix(".json"), worlds, arguments.seeds))
    print(text)
    arguments.out.with_suffix(".md").write_text(text + "\n")


if __name__ == "__main__":
    main()
