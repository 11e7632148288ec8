"""What soft agents share: random streams, a temperature, an averaged critic, logs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import (
    DictReplayBufferSamples,
    MaybeCallback,
    ReplayBufferSamples,
)
from stable_baselines3.common.utils import get_parameters_by_name
from torch import Tensor

from ebrl import programs
from ebrl.training import DivergedError

from . import compilation
from .finite import check_observation, check_start, check_transition
from .memory import keep_freed_memory
from .optimization import AdamState, adam_step, check_is_adam, in_layout_of, trained_by
from .ranges import check_agent_arguments, read_temperature
from .scaled_rewards import ScaledRewards
from .state import cut_trajectories

Self = TypeVar("Self", bound="SoftAgent")
Observations = Tensor | dict[str, Tensor]
Observation = np.ndarray | dict[str, np.ndarray]

COLDEST = 1e-8  # the temperature that stands for 0, in units of reward
TUNED = {"ent_coef_optimizer", "log_ent_coef"}  # what the file of a fixed temperature lacks


class Transitions(NamedTuple):
    """A batch of the replay, with observations as the networks take them."""

    observations: Observations
    actions: Tensor  # (batch, action_dim), or indices (batch, 1)
    next_observations: Observations
    rewards: Tensor  # (batch,)
    discounts: Tensor  # (batch,), of the next observation's value: 0 where the episode ended


class Due(NamedTuple):
    """Which parts of an update are done this time."""

    policy: bool
    target: bool


class SoftAgent(ScaledRewards):
    """An off-policy algorithm whose policy has a temperature, a critic and its moving average.

    `streams` names its random streams, `trained` the networks of the policy that have optimisers.
    A subclass defines the noise of an update in `_draw`, and the update on one batch, with what is
    logged of it, in `_update`.
    """

    streams: ClassVar[tuple[str, ...]] = ("acting",)
    trained: ClassVar[tuple[str, ...]] = ("critic",)
    policy: Any  # a subclass names its own
    ent_coef: float | str
    initial_ent_coef: float
    target_update_interval: int
    target: Literal["average", "none"]
    policy_delay: int = 1
    compile: bool
    precision: Literal["float32", "bfloat16"]

    def _begin(self, set_up: bool) -> None:
        """Check the arguments, and build the networks unless a file is to give them."""
        self._check_parameters()
        if set_up:
            self._setup_model()

    def _check_parameters(self) -> None:
        if self.target not in ("average", "none"):
            raise ValueError(f"expected target 'average' or 'none', got {self.target!r}")
        self._check_policy_kwargs()
        check_agent_arguments(self)
        self.ent_coef, self.initial_ent_coef = read_temperature(
            self.ent_coef, self.initial_ent_coef
        )
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"expected precision 'float32' or 'bfloat16', got {self.precision!r}")

    def _setup_model(self) -> None:
        self.generators = {name: torch.Generator(self.device) for name in self.streams}
        for generator in self.generators.values():  # torch's global seed reproduces a run
            generator.manual_seed(int(torch.randint(2**62, ())))
        super()._setup_model()  # sets the seed, if there is one
        self.policy.generator = self.generators["acting"]
        for name in (*self.trained, "critic_target"):
            setattr(self, name, getattr(self.policy, name))
        pair = () if self.critic_target is None else (self.critic_target, self.critic)
        self._averaged = [list(network.parameters()) for network in pair]
        self._running = [get_parameters_by_name(network, ["running_"]) for network in pair]
        self._setup_temperature()
        names = (*self.trained, "temperature")
        self._learning_rates = {name: torch.zeros((), device=self.device) for name in names}
        self._metrics: dict[str, Tensor] = {}  # of the last update of each part
        self._adam: dict[str, AdamState] = {}
        if self.compile:
            for optimizer in self._optimizers().values():
                check_is_adam(optimizer)
        self._compiles = self.compile and compilation.can_compile(self.device)

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        found = {name: getattr(self.policy, name).optimizer for name in self.trained}
        if self.ent_coef_optimizer is not None:
            found["temperature"] = self.ent_coef_optimizer
        return found

    def set_random_seed(self, seed: int | None = None) -> None:
        """As Stable-Baselines3; seeds the agent's own streams, too, each differently."""
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
            self.policy.temperature.fill_(max(self.ent_coef, COLDEST))

    @property
    def ent_coef_tensor(self) -> Tensor:
        """The temperature now, 0-dim; Stable-Baselines3's name for it."""
        return self.policy.temperature

    # ---- training ---------------------------------------------------------------------------

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Update networks and temperature on `gradient_steps` batches of the replay."""
        keep_freed_memory()
        self.policy.set_training_mode(True)
        self._scale_critics()
        self._update_learning_rate(list(self._optimizers().values()))
        assert self.replay_buffer is not None  # made by _setup_model
        for _ in range(gradient_steps):
            samples = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            batch = self._transitions(samples)
            self._n_updates += 1
            due = Due(
                policy=self._n_updates % self.policy_delay == 0,
                target=self._n_updates % self.target_update_interval == 0,
            )
            self._metrics |= self._run_update(batch, self._draw(batch_size), due)
        self._record_metrics()

    def _record_metrics(self) -> None:
        """Log the metrics of the last update, where every callback finds them.

        Raises:
            DivergedError: If one of them is not finite.
        """
        values = [value.float() for value in self._metrics.values()]
        numbers = torch.stack(values).tolist() if values else []  # the host waits once
        for name, number in zip(self._metrics, numbers, strict=True):
            if not math.isfinite(number):
                self._metrics = {}  # of weights that are about to be replaced
                raise self._diverged(f"the metric {name} is {number}")
            self.logger.record(f"train/{name}", number)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(
            f"{what} after step {self.num_timesteps:,} and {self._n_updates:,} updates: the "
            "training diverged; go back to the last good checkpoint, and lower the learning rate "
            "or scale the rewards down"
        )

    def _transitions(self, samples: ReplayBufferSamples | DictReplayBufferSamples) -> Transitions:
        discounts = self.gamma if samples.discounts is None else samples.discounts
        return Transitions(
            self.policy.preprocess(samples.observations),
            samples.actions,
            self.policy.preprocess(samples.next_observations),
            samples.rewards.squeeze(-1),
            ((1 - samples.dones) * discounts).squeeze(-1),
        )

    def _draw(self, batch_size: int) -> Any:
        """Return all the randomness of one update."""
        return ()

    def _update(self, batch: Transitions, noise: Any, due: Due) -> dict[str, Tensor]:
        """Do one update in place and return its metrics, 0-dim and without graphs.

        An update runs eagerly or as one compiled program, and therefore neither draws random
        numbers nor waits for the device.

        A metric's name means the same for all agents. `energy` is the mean under the policy of the
        energy that it follows, `entropy` the policy's entropy, both at the replayed observations.
        `soft_value` is the soft value of the next ones under the critics that are backed up.

        Args:
            batch: A batch of the replay.
            noise: What `_draw` returned.
            due: Which parts of the update to do.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no _update(batch, noise, due)")

    def _run_update(self, *arguments: Any) -> dict[str, Tensor]:
        """Run `_update` as `compile` and `precision` say."""
        low = self.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low, cache_enabled=False):
            if not self._compiles:
                return self._update(*arguments)
            states = self._adam_states()
            if states is None:  # optimisers create their state in their first step
                return self._update(*arguments)
            self._adam = states
            try:
                return compilation.run(type(self)._update, (self, *arguments), self._static())
            except programs.failures() as error:
                self._compiles = False
                warnings.warn(
                    f"the update of {type(self).__name__} did not compile and runs eagerly: "
                    f"{compilation.reason(error)}",
                    stacklevel=4,
                )
        return self._run_update(*arguments)

    def _adam_states(self) -> dict[str, AdamState] | None:
        """Return the state of every optimizer, or None before the first step of one of them."""
        states = {}
        for name, optimizer in self._optimizers().items():
            state = AdamState.of(optimizer, self._learning_rates[name])
            if state is None:
                return None
            states[name] = state
        return states

    def _static(self) -> Iterator[Tensor]:
        for state in self._adam.values():
            yield from state.tensors()
        if self.log_ent_coef is not None:
            yield self.log_ent_coef

    def _descend(self, name: str, loss: Tensor, max_norm: float | None = None) -> None:
        """Take one optimizer step on the loss, for one network alone."""
        parameters = self._trainable(name)
        if not parameters or not loss.requires_grad:  # all of it is frozen
            return
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        if max_norm is not None:
            norms = torch._foreach_norm([one for one in gradients if one is not None])
            shrink = (max_norm / (torch.stack(norms).norm() + 1e-6)).clamp_max(1.0)
            gradients = tuple(one if one is None else one * shrink for one in gradients)
        self._step(name, parameters, gradients)

    def _trainable(self, name: str) -> list[Tensor]:
        """Return a network's parameters that have a gradient.

        A compiled graph that read them from the optimizer would be recompiled whenever the learning
        rate changes.
        """
        if torch.compiler.is_compiling():
            return self._adam[name].parameters
        return trained_by(self._optimizers()[name])

    def _step(
        self, name: str, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]
    ) -> None:
        if torch.compiler.is_compiling():
            pairs = zip(parameters, gradients, strict=True)
            used = [(parameter, gradient) for parameter, gradient in pairs if gradient is not None]
            adam_step([p for p, _ in used], [gradient for _, gradient in used], self._adam[name])
            return
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else in_layout_of(parameter, gradient)
        self._optimizers()[name].step()

    def _update_temperature(self, entropy: Tensor, target: float) -> None:
        """Move the temperature so that the policy's entropy, 0-dim, approaches the target."""
        if self.log_ent_coef is None or not self.log_ent_coef.requires_grad:
            return
        self._step("temperature", [self.log_ent_coef], [(entropy - target).reshape(1)])
        self.policy.temperature.copy_(self.log_ent_coef.detach().exp().squeeze(0))

    @torch.no_grad()
    def _update_target(self) -> None:
        if self.critic_target is None:
            return
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

    def sample_actions(self, observation: Observation, n: int) -> np.ndarray:
        """Draw `n` actions of the policy for one observation, in the environment's units."""
        raise NotImplementedError(f"{type(self).__name__} defines no sample_actions")

    # ---- numbers that are not finite --------------------------------------------------------

    def predict(
        self,
        observation: Observation,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """As Stable-Baselines3; `ValueError` for an observation that is not finite."""
        check_observation(observation)
        return super().predict(observation, state, episode_start, deterministic)

    def _setup_learn(self, *arguments: Any, **named: Any) -> Any:
        """As Stable-Baselines3; n-step returns and HER goals do not reach across its reset."""
        running = self._last_obs
        taken = super()._setup_learn(*arguments, **named)
        if self._last_obs is not running:
            cut_trajectories(self)
        check_start(self.env, self._last_obs)
        return taken

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: Observation,
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """As Stable-Baselines3; `ValueError` for an observation or a reward that is not finite."""
        check_transition(self.env, self.num_timesteps, new_obs, reward, infos)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def _seen(self, observation: Observation) -> tuple[Any, bool]:
        """Return finite observations as tensors `(batch, ...)`, and whether they were a batch."""
        check_observation(observation)
        self.policy.set_training_mode(False)
        return self.policy.obs_to_tensor(observation)

    # ---- saving -----------------------------------------------------------------------------

    def set_parameters(self, *arguments: Any, **named: Any) -> None:
        """As Stable-Baselines3; an agent with a fixed temperature keeps it."""
        super().set_parameters(*arguments, **named)
        temperature = self.policy.temperature
        if self.log_ent_coef is None:
            temperature.fill_(max(self.ent_coef, COLDEST))
        elif not torch.equal(self.log_ent_coef.detach().exp().squeeze(0), temperature):
            self.log_ent_coef.data.fill_(temperature.log())  # it came without its logarithm

    def _put_learnt(self, state: dict[str, Any]) -> None:
        """As `Saving`; the tuning of a temperature that was fixed starts from it."""
        stored = {name for part in state.values() for name in part}
        if self.ent_coef_optimizer is not None and not TUNED & stored:
            fresh = {**self.ent_coef_optimizer.state_dict(), "state": {}}
            parameters = {**state.get("parameters", {}), "ent_coef_optimizer": fresh}
            # the agent's own tensor: `set_parameters` sets it by the temperature in the file
            variables = {**state.get("variables", {}), "log_ent_coef": self.log_ent_coef}
            state = {**state, "parameters": parameters, "variables": variables}
        super()._put_learnt(state)

    def _parameters_of(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """As `Saving`; an agent with a fixed temperature ignores those of a tuned one."""
        left_out = set() if self.ent_coef == "auto" else TUNED
        return {name: one for name, one in parameters.items() if name not in left_out}

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts = ["policy", *(f"{name}.optimizer" for name in self.trained)]
        variables = [] if self.returns is None else ["returns.moments"]
        if self.ent_coef_optimizer is None:
            return state_dicts, variables
        return [*state_dicts, "ent_coef_optimizer"], [*variables, "log_ent_coef"]
