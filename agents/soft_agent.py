"""What soft agents share: random streams, a temperature, an averaged critic, their logs."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from stable_baselines3.common.type_aliases import (
    DictReplayBufferSamples,
    MaybeCallback,
    ReplayBufferSamples,
)
from stable_baselines3.common.utils import get_parameters_by_name
from torch import Tensor, nn

from .ranges import check_numbers
from .saving import Saving

Self = TypeVar("Self", bound="SoftAgent")
Batch = ReplayBufferSamples | DictReplayBufferSamples
Observation = np.ndarray | dict[str, np.ndarray]


def descend(network: nn.Module, loss: Tensor) -> None:
    """Take one step of the network's optimizer down the loss; no other network gets a gradient."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    network.optimizer.step()


class SoftAgent(Saving):
    """An off-policy algorithm whose policy has a temperature, a critic and its moving average.

    `streams` are its random streams, `trained` the networks of the policy that have optimisers.
    A subclass says in `_update` what one batch does, and in `_metrics` what to log of it.
    """

    streams: ClassVar[tuple[str, ...]] = ("acting",)
    trained: ClassVar[tuple[str, ...]] = ("critic",)
    policy: Any  # a subclass names its own
    ent_coef: float | Literal["auto"]
    initial_ent_coef: float
    target_update_interval: int

    def _check_parameters(self) -> None:
        check_numbers(self)
        automatic = self.ent_coef == "auto"
        temperature = self.initial_ent_coef if automatic else self.ent_coef
        if isinstance(temperature, str) or not 0 < temperature < math.inf:
            name = "initial_ent_coef" if automatic else "ent_coef"
            either = "" if automatic else "'auto' or "
            raise ValueError(
                f"expected {name} to be {either}finite and above 0, got {temperature!r}"
            )

    def _setup_model(self) -> None:
        self.generators = {name: torch.Generator(self.device) for name in self.streams}
        for generator in self.generators.values():
            generator.seed()
        super()._setup_model()  # sets the seed, if there is one
        self.policy.generator = self.generators["acting"]
        for name in (*self.trained, "critic_target"):
            setattr(self, name, getattr(self.policy, name))
        pair = (self.policy.critic_target, self.policy.critic)
        self._averaged = [list(network.parameters()) for network in pair]
        self._running = [get_parameters_by_name(network, ["running_"]) for network in pair]
        self._setup_temperature()

    def set_random_seed(self, seed: int | None = None) -> None:
        """As Stable-Baselines3, and the agent's own streams: none disturbs another."""
        super().set_random_seed(seed)
        if seed is not None:
            for offset, generator in enumerate(self.generators.values()):
                generator.manual_seed(len(self.generators) * seed + offset)

    def _setup_temperature(self) -> None:
        self.log_ent_coef: Tensor | None = None
        self.ent_coef_optimizer: torch.optim.Optimizer | None = None
        if self.ent_coef == "auto":
            self.log_ent_coef = torch.full(
                (1,), math.log(self.initial_ent_coef), device=self.device, requires_grad=True
            )
            self.ent_coef_optimizer = torch.optim.Adam(
                [self.log_ent_coef], lr=self.lr_schedule(1), fused=True
            )
            self.policy.temperature.fill_(self.initial_ent_coef)
        else:
            self.policy.temperature.fill_(self.ent_coef)

    # ---- training ---------------------------------------------------------------------------

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Update networks and temperature on `gradient_steps` batches of the replay."""
        self.policy.set_training_mode(True)
        optimizers = [getattr(self.policy, name).optimizer for name in self.trained]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        self._update_learning_rate(optimizers)
        assert self.replay_buffer is not None  # made by _setup_model
        for _ in range(gradient_steps):
            self._update(self.replay_buffer.sample(batch_size, env=self._vec_normalize_env))
            self._n_updates += 1
            if self._n_updates % self.target_update_interval == 0:
                self._update_target()

    def _update(self, batch: Batch) -> None:
        raise NotImplementedError(f"{type(self).__name__} defines no _update(batch)")

    def _update_temperature(self, entropy: Tensor, target: float) -> None:
        """Move the temperature so that the policy's entropy, 0-dim, comes to the target."""
        if self.log_ent_coef is None or self.ent_coef_optimizer is None:
            return
        self.log_ent_coef.grad = (entropy - target).reshape(1)
        self.ent_coef_optimizer.step()
        self.policy.temperature.copy_(self.log_ent_coef.detach().exp().squeeze(0))

    @torch.no_grad()
    def _update_target(self) -> None:
        averages, current = self._averaged
        torch._foreach_lerp_(averages, current, self.tau)
        for average, running in zip(*self._running, strict=True):
            average.copy_(running)

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """As Stable-Baselines3; the log is named after the class unless `tb_log_name` is given."""
        name = tb_log_name or type(self).__name__
        return super().learn(
            total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar
        )

    def _metrics(self) -> dict[str, Tensor]:
        """What the last update saw, of any shape, to be averaged; empty before the first.

        One name is one thing for all agents: over the replayed observations `energy` is the mean
        under the policy of the energy that it follows, and `entropy` the policy's; `soft_value` is
        that of the next observations under the averaged critic.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no _metrics()")

    def dump_logs(self) -> None:
        """Write the logs; only here does the host wait for the device."""
        for name, value in self._metrics().items():
            self.logger.record(f"train/{name}", value.mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        super().dump_logs()

    def _one(self, observation: Observation) -> Any:
        """Return one observation as tensors `(1, ...)`; ValueError for a batch of them."""
        self.policy.set_training_mode(False)
        tensor, vectorized = self.policy.obs_to_tensor(observation)
        if vectorized:
            raise ValueError(
                "expected one observation of the environment's observation space, got a batch of "
                "them: call once for each"
            )
        return tensor

    # ---- saving -----------------------------------------------------------------------------

    def set_parameters(self, *arguments: Any, **named: Any) -> None:
        """As Stable-Baselines3; a temperature that was given to the agent stays."""
        super().set_parameters(*arguments, **named)
        if self.ent_coef != "auto":
            self.policy.temperature.fill_(self.ent_coef)

    def _put_learnt(self, state: dict[str, Any]) -> None:
        """As `Saving`; a temperature that was given needs nothing of one that was tuned."""
        if self.ent_coef != "auto":
            parameters, variables = dict(state["parameters"]), dict(state["variables"])
            parameters.pop("ent_coef_optimizer", None)
            variables.pop("log_ent_coef", None)
            state = {"parameters": parameters, "variables": variables}
        super()._put_learnt(state)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts = ["policy", *(f"{name}.optimizer" for name in self.trained)]
        if self.ent_coef_optimizer is None:
            return state_dicts, []
        return [*state_dicts, "ent_coef_optimizer"], ["log_ent_coef"]
