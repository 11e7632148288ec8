"""Environments on the host, and a `Population` on a device that steps between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from ebrl.agents.energy_actor_critic import UpdateNoise
from ebrl.agents.population import Population
from ebrl.agents.scaled_rewards import RunningReturns
from ebrl.agents.soft_agent import Due, Transitions


class Step(NamedTuple):
    """What the environments did, as columns of one array that goes to the device."""

    observation: Tensor  # (S, observation_dim)
    action: Tensor  # (S, action_dim), scaled to [-1, 1]
    next_observation: Tensor  # (S, observation_dim), the last of an episode that ended
    present: Tensor  # (S, observation_dim), the first of the next episode there
    reward: Tensor  # (S, 1)
    terminated: Tensor  # (S, 1)
    scale: Tensor  # (S, 1), of the critics

    @classmethod
    def of(cls, columns: Tensor, observation: int, action: int) -> Step:
        """Return views of the columns."""
        widths = [observation, action, observation, observation, 1, 1, 1]
        return cls(*columns.split(widths, -1))


class Replay:
    """The transitions of S agents, on the device."""

    def __init__(self, size: int, capacity: int, width: int, device: torch.device):
        self.columns = torch.zeros(size, capacity, width, device=device)
        self.count = torch.zeros(1, dtype=torch.long, device=device)
        self.rows = torch.arange(size, device=device).unsqueeze(1)

    def store(self, columns: Tensor) -> None:
        """Append one transition of each agent, `(S, width)`."""
        self.columns.index_copy_(1, self.count, columns.unsqueeze(1))
        self.count.add_(1)

    def sample(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Return `(S, batch_size, width)`, drawn with replacement."""
        shape = (len(self.columns), batch_size)
        uniform = torch.rand(shape, generator=generator, device=self.columns.device)
        return self.columns[self.rows, (uniform * self.count).long()]


class Loop:
    """The training of a population: one environment each, one update a step.

    Args:
        population: Agents at their first update.
        environments: One for each agent, whose actions are boxes.
        seeds: Likewise; they seed the environments as Stable-Baselines3 does.
        settings: `learning_starts` and `batch_size`.
        total: Steps of each agent.
    """

    def __init__(
        self,
        population: Population,
        environments: list[gym.Env],
        seeds: list[int],
        settings: dict[str, Any],
        total: int,
    ):
        self.population, self.environments, self.total = population, environments, total
        self.starts, self.batch_size = settings["learning_starts"], settings["batch_size"]
        size, device = population.size, population.device
        self.widths = tuple(
            int(np.prod(space.shape))
            for space in (environments[0].observation_space, environments[0].action_space)
        )
        width = 3 * self.widths[0] + self.widths[1] + 3
        pinned = device.type == "cuda"
        self.host = torch.zeros(size, width, pin_memory=pinned)
        self.rows = [column.numpy() for column in Step.of(self.host, *self.widths)]
        self.columns = torch.zeros(size, width, device=device)
        self.actions = torch.zeros(size, self.widths[1], device=device)
        self.chosen = torch.zeros(size, self.widths[1], pin_memory=pinned)
        self.replay = Replay(size, total + 1, width, device)
        self.generator = torch.Generator(device).manual_seed(seeds[0])
        self.returns = (
            [RunningReturns(1) for _ in seeds] if population.agent.scale_rewards else None
        )
        self.updates, self.programs = 0, dict[bool, Callable[[], None]]()
        self.observations = np.stack(
            [env.reset(seed=seed)[0] for env, seed in zip(environments, seeds, strict=True)]
        )
        for env, seed in zip(environments, seeds, strict=True):
            env.action_space.seed(seed)

    def steps(self) -> Iterator[int]:
        """Step, store and update; yield the number of steps so far."""
        for step in range(1, self.total + 1):
            self._step_environments(random=step <= self.starts + 1)
            learns = step > self.starts
            self.columns.copy_(self.host, non_blocking=learns)  # `_run` waits for the device
            if learns:
                self._run()
            else:
                self.replay.store(self.columns)
            yield step

    def updates_per_second(self, count: int) -> float:
        """Return how often a second the population is updated, without its environments."""
        began = time.perf_counter()
        for _ in range(count):
            self._run()
        return count / (time.perf_counter() - began)

    def _step_environments(self, random: bool) -> None:
        for i, env in enumerate(self.environments):
            low, high = env.action_space.low, env.action_space.high
            scaled = self.chosen[i].numpy()
            if random:
                scaled = 2 * (env.action_space.sample() - low) / (high - low) - 1
            outcome = env.step(low + 0.5 * (scaled + 1) * (high - low))
            observation, reward, terminated, truncated, _ = outcome
            row = Step(*(column[i] for column in self.rows))
            row.observation[:], row.action[:] = self.observations[i], scaled
            row.next_observation[:], row.reward[:], row.terminated[:] = (
                observation,
                reward,
                terminated,
            )
            if self.returns is not None:
                done = np.array([terminated or truncated])
                self.returns[i].update(np.array([reward]), done, self.population.agent.gamma)
                row.scale[:] = self.returns[i].scale()
            if terminated or truncated:
                observation, _ = env.reset()
            row.present[:] = self.observations[i] = observation

    def _run(self) -> None:
        """Store, update and act; the next actions are then in `chosen`."""
        self.updates += 1
        policy = self.updates % self.population.agent.policy_delay == 0
        if policy not in self.programs:
            self.programs[policy] = self._program(Due(policy=policy, target=True))
        self.programs[policy]()
        self.chosen.copy_(self.actions, non_blocking=True)
        if self.chosen.is_pinned():
            torch.cuda.current_stream().synchronize()

    def _program(self, due: Due) -> Callable[[], None]:
        def program() -> None:
            self.replay.store(self.columns)
            if self.returns is not None:
                scale = Step.of(self.columns, *self.widths).scale.squeeze(-1)
                for name, buffer in self.population.buffers.items():
                    if name.endswith("output_scale"):
                        buffer.copy_(scale)
            batch = Step.of(self.replay.sample(self.batch_size, self.generator), *self.widths)
            self.population.update(self._transitions(batch), self._noise(), due)
            present = Step.of(self.columns, *self.widths).present
            self.actions.copy_(self.population.act(present, self.generator))

        if self.population.device.type != "cuda":
            return program
        state = [*self.population.tensors(), self.replay.count, self.actions]
        return captured(program, state, self.generator)

    def _transitions(self, batch: Step) -> Transitions:
        gamma = self.population.agent.gamma
        return Transitions(
            batch.observation,
            batch.action,
            batch.next_observation,
            batch.reward.squeeze(-1),
            (1 - batch.terminated.squeeze(-1)) * gamma,
        )

    def _noise(self) -> UpdateNoise:
        agent, leading = self.population.agent, (self.population.size, self.batch_size)
        on = {"generator": self.generator, "device": self.population.device}
        return UpdateNoise(
            proposal=torch.randn(*leading, agent.components, self.widths[1], **on),
            candidates=torch.randn(*leading, agent.candidates, self.widths[1], **on),
            offset=torch.rand(*leading, 1, **on),
        )


def captured(
    program: Callable[[], None], state: list[Tensor], generator: torch.Generator
) -> Callable[[], None]:
    """Return a program as a CUDA graph; what its first runs change in `state` is undone."""
    before = [tensor.detach().clone() for tensor in state]
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            program()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        program()
    with torch.no_grad():
        torch._foreach_copy_([tensor.detach() for tensor in state], before)
    return graph.replay
