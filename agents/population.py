"""Several `EnergyActorCritic` of one shape whose updates and actions are one batched program.

The networks of S agents are stacked. Losses and actions are those of one agent under
`torch.func.vmap`, so that all agents share the kernel launches of one. Nothing waits for the host:
a CUDA graph can hold all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from ebrl.energies import Energy, FunctionEnergy
from ebrl.estimators import soft_value
from ebrl.kernels import MALA
from ebrl.kernels.draws import pick, take
from ebrl.sampling import DualAveraging
from ebrl.sampling.paths import Stage
from ebrl.sampling.run import Run
from ebrl.spaces import Box

from .arguments import encode, names_of
from .energy_actor_critic import EnergyActorCritic, UpdateNoise
from .optimization import in_layout_of, tail_weight
from .proposal import Divergence, reverse_kl
from .soft_agent import Due, Transitions

Tensors = dict[str, Tensor]
OF_A_MEMBER = (  # arguments that no update and no action of a population reads
    "seed", "verbose", "tensorboard_log", "buffer_size", "learning_starts", "initial_ent_coef",
)  # fmt: skip


class Population:
    """The networks, optimisers and temperatures of S agents, each tensor with a leading axis S.

    Args:
        agents: Agents built with the same arguments but for the seed, in environments of the same
            spaces. Each has one component in its proposal, torch's Adam and an automatic
            temperature. The policy of the first agent moves to the device.
        device: Where the population lives.

    Raises:
        ValueError: For agents that do not fit together.
    """

    def __init__(self, agents: Sequence[EnergyActorCritic], device: torch.device | str):
        check_alike(agents)
        self.agent, self.size = agents[0], len(agents)
        self.device = torch.device(device)
        parameters, buffers = torch.func.stack_module_state([each.policy for each in agents])
        self.agent.policy.to(self.device)
        self.parameters = {name: self._own(tensor, True) for name, tensor in parameters.items()}
        self.buffers = {name: self._own(tensor, False) for name, tensor in buffers.items()}
        logs = [each.log_ent_coef for each in agents if each.log_ent_coef is not None]
        self.log_ent_coef = self._own(torch.cat(logs), True)  # (S,)
        self.optimizers = {
            "critic": adam(self._of("critic"), self.agent.critic.optimizer),
            "proposal": adam(self._of("proposal"), self.agent.proposal.optimizer),
            "temperature": adam([self.log_ent_coef], self.agent.ent_coef_optimizer),
        }
        self.kernel, self.space = MALA(), Box(-1.0, 1.0, walls="tanh")
        self.adaptation = DualAveraging(shape=(self.size,)).to(self.device)
        self.adaptation.start(0.01, self.kernel)
        self._loss = self._stacked(self.agent._critic_loss)
        self._divergence = self._stacked(self._divergence_of_one)
        self._choose = self._stacked(self._choose_of_one)
        self._energy = self._stacked(self._energy_of_one)

    @property
    def temperature(self) -> Tensor:
        """The temperatures now, `(S,)`."""
        return self.buffers["temperature"]

    def tensors(self) -> list[Tensor]:
        """Return everything that updates and actions change."""
        states = [state for each in self.optimizers.values() for state in each.state.values()]
        moments = [tensor for state in states for tensor in state.values()]
        mine = [*self.parameters.values(), *self.buffers.values(), self.log_ent_coef]
        return [*mine, *moments, *self.adaptation.buffers()]

    def update(self, batch: Transitions, noise: UpdateNoise, due: Due) -> Tensor:
        """Update every agent by its own batch, as `EnergyActorCritic` does.

        With `scale_rewards` the caller keeps the running deviations of the discounted returns, and
        copies them, `(S,)`, into the buffers whose names end in `output_scale`.

        Args:
            batch: Transitions of each agent, tensors `(S, batch, …)`.
            noise: Noise of each agent's update, likewise.
            due: Which parts of the update to do.

        Returns:
            The losses of their critics, `(S,)`.
        """
        alpha = self.temperature.clone()
        losses, _ = self._loss(batch, noise, alpha)
        self._descend("critic", losses)
        if self.agent.unit_weights:
            self._stacked(self._project)()
        if due.policy:
            divergence = self._divergence(batch, noise.proposal, alpha)
            self._descend("proposal", torch.vmap(attrgetter("loss"))(divergence))
            self._average_proposals()
            self._update_temperature(torch.vmap(attrgetter("entropy"))(divergence.detached()))
        if due.target:
            self._update_target()
        return losses.detach()

    @torch.no_grad()
    def act(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one scaled action of each agent, `(S, action_dim)`.

        Args:
            observations: `(S, observation_dim)`.
            generator: The random stream, on the device.
        """
        policy = self.agent.policy
        shape = (self.size, policy.acting_candidates, policy.proposal.dimension)
        normal = torch.randn(shape, generator=generator, device=self.device)
        uniform = torch.zeros(self.size, 1, device=self.device)
        if policy.acting_candidates > 1:
            uniform.uniform_(generator=generator)
        actions = self._choose(observations, normal, uniform, self.temperature)
        if policy.moves == 0:
            return actions
        energy = FunctionEnergy(lambda x: self._energy(observations, x))
        stage = Stage(energy, policy.moves, self.adaptation.step_size, self.temperature)
        run = Run(self.kernel, self.space, stage, actions)
        for _ in run.moves(generator, self.adaptation):
            pass
        return run.position()[0]

    def proposals(self) -> list[Tensors]:
        """Return the state of each agent's proposal that acts outside of training, on the CPU."""
        network = "averaged_proposal." if self.agent.averaging else "proposal."
        state = {
            name.removeprefix(network): tensor.detach().cpu()
            for name, tensor in (self.parameters | self.buffers).items()
            if name.startswith(network)
        }
        return [{name: tensor[i] for name, tensor in state.items()} for i in range(self.size)]

    @torch.no_grad()
    def copy_to(self, agents: Sequence[EnergyActorCritic]) -> None:
        """Give each agent its weights and its temperature; optimisers stay as they are.

        Args:
            agents: As many agents as the population was made of, built with the same arguments.
        """
        state = self.parameters | self.buffers
        for i, agent in enumerate(agents):
            own = {name: tensor[i] for name, tensor in state.items() if "sampler." not in name}
            agent.policy.load_state_dict(agent.policy.state_dict() | own)
            if agent.log_ent_coef is not None:
                agent.log_ent_coef.copy_(self.log_ent_coef[i : i + 1])

    # ---- one agent, under vmap --------------------------------------------------------------

    def _divergence_of_one(self, batch: Transitions, normal: Tensor, alpha: Tensor) -> Divergence:
        energy = UnderVmap(self.agent.critic.given_preprocessed(batch.observations, "max"))
        mixture = self.agent.proposal.of_batch(batch.observations)
        return reverse_kl(mixture, normal, energy, alpha)

    def _choose_of_one(
        self, observation: Tensor, normal: Tensor, uniform: Tensor, alpha: Tensor
    ) -> Tensor:
        """Return one of the candidates, resampled by importance, `(action_dim,)`."""
        observation, normal = observation.unsqueeze(0), normal.unsqueeze(0)
        mixture = self.agent.proposal(observation)
        free = mixture.one_each(normal)
        actions = torch.tanh(free)  # (1, candidates, action_dim)
        if actions.shape[1] == 1:
            return actions[0, 0]
        energies = self.agent.critic.given_preprocessed(observation)(actions)
        weights = soft_value(energies, mixture.log_density(free), alpha).weights
        return take(actions, pick(weights, uniform))[0]

    def _energy_of_one(self, observation: Tensor, action: Tensor) -> Tensor:
        energy = self.agent.critic.given_preprocessed(observation.unsqueeze(0))
        return energy(action.unsqueeze(0))[0]

    def _project(self) -> Tensor:
        self.agent.critic.energy.project_weights()
        return self.agent.policy.temperature.clone()  # vmap asks for a result

    # ---- all agents -------------------------------------------------------------------------

    def _stacked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function of one agent's networks as a function of all of them."""
        program = Program(self.agent.policy, function)

        def one(state: Tensors, arguments: tuple[Any, ...]) -> Any:
            named = {f"policy.{name}": tensor for name, tensor in state.items()}
            return torch.func.functional_call(program, named, arguments)

        def stacked(*arguments: Any) -> Any:
            return torch.vmap(one)(self.parameters | self.buffers, arguments)

        return stacked

    def _descend(self, name: str, losses: Tensor) -> None:
        (group,) = self.optimizers[name].param_groups
        self._step(name, torch.autograd.grad(losses.sum(), group["params"]))

    def _step(self, name: str, gradients: Sequence[Tensor]) -> None:
        (group,) = self.optimizers[name].param_groups
        for parameter, gradient in zip(group["params"], gradients, strict=True):
            parameter.grad = in_layout_of(parameter, gradient)
        self.optimizers[name].step()

    def _update_temperature(self, entropies: Tensor) -> None:
        self._step("temperature", [entropies - float(self.agent.target_entropy)])
        self.temperature.copy_(self.log_ent_coef.detach().exp())

    @torch.no_grad()
    def _average_proposals(self) -> None:
        if not self.agent.averaging:
            return
        updates = self.buffers["proposal_updates"].add_(1)  # (S,), all equal
        weight = tail_weight(self.agent.averaging, updates[0])
        averages, new = self._of("averaged_proposal"), self._of("proposal")
        for average, newest in zip(averages, new, strict=True):
            average.add_((newest - average) * weight)
        for name, tensor in self.buffers.items():
            if name.startswith("averaged_proposal."):
                tensor.copy_(self.buffers[name.removeprefix("averaged_")])

    @torch.no_grad()
    def _update_target(self) -> None:
        if self.agent.critic_target is None:
            return
        torch._foreach_lerp_(self._of("critic_target"), self._of("critic"), self.agent.tau)
        for name, tensor in self.buffers.items():
            if name.startswith("critic_target.") and "running_" in name:
                tensor.copy_(self.buffers[name.replace("critic_target", "critic", 1)])

    def _of(self, network: str) -> list[Tensor]:
        named = self.parameters.items()
        return [tensor for name, tensor in named if name.startswith(f"{network}.")]

    def _own(self, tensor: Tensor, trained: bool) -> Tensor:
        return tensor.detach().to(self.device, copy=True).contiguous().requires_grad_(trained)


class Program(nn.Module):
    """A function of a policy's networks as a module, whose weights `functional_call` replaces."""

    def __init__(self, policy: nn.Module, function: Callable[..., Any]):
        super().__init__()
        self.policy, self.function = policy, function

    def forward(self, *arguments: Any) -> Any:
        return self.function(*arguments)


class UnderVmap(Energy):
    """An energy that is differentiated by `torch.func`, which nests in `vmap`."""

    def __init__(self, bound: Any):
        super().__init__()
        self.bound = bound

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.bound(x)
        return value

    @torch.no_grad()  # autograd records nothing; `torch.func` takes the gradient all the same
    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, pull_back, *_ = torch.func.vjp(self.forward, x)
        (gradient,) = pull_back(torch.ones_like(value))
        return value, gradient


def adam(parameters: list[Tensor], like: torch.optim.Optimizer | None) -> torch.optim.Adam:
    """Return an Adam whose state exists before its first step, so that a graph can hold it."""
    assert isinstance(like, torch.optim.Adam)  # as `check_alike` found
    options = like.defaults | {"fused": True, "capturable": parameters[0].is_cuda}
    optimizer = torch.optim.Adam(parameters, **options)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # with zero gradients
    for state in optimizer.state.values():
        state["step"].zero_()
    return optimizer


def settings(agent: EnergyActorCritic) -> dict[str, Any]:
    """Return the numbers and choices of an agent that all members of a population share."""
    values = {name: getattr(agent, name, None) for name in names_of(type(agent))}
    plain = {
        name: value for name, value in values.items() if type(value) in (int, float, str, bool)
    }
    return {name: value for name, value in plain.items() if name not in OF_A_MEMBER}


def check_alike(agents: Sequence[EnergyActorCritic]) -> None:
    """Raise `ValueError` for agents that cannot be one population."""
    if not agents:
        raise ValueError("expected at least one agent, got none")
    for agent in agents:
        if agent.components != 1 or agent.log_ent_coef is None or callable(agent.learning_rate):
            raise ValueError(
                "expected agents with components=1, ent_coef='auto' and a constant learning rate, "
                f"got components={agent.components}, ent_coef={agent.ent_coef!r}, "
                f"learning_rate={agent.learning_rate!r}"
            )
        for optimizer in (agent.critic.optimizer, agent.proposal.optimizer):
            if type(optimizer) is not torch.optim.Adam:
                raise ValueError(f"expected torch.optim.Adam, got {type(optimizer).__name__}")
        if agent.precision != "float32":
            raise ValueError(f"expected precision='float32', got {agent.precision!r}")
        if agent.critic_target is not None and agent.policy.share_features_extractor:
            raise ValueError("expected features that are not shared beside target networks")
    for name, value in settings(agents[0]).items():
        others = [settings(agent)[name] for agent in agents]
        if others != [value] * len(agents):
            raise ValueError(f"expected agents of one {name}, got {others}")
    networks = [encode(agent.policy_kwargs) for agent in agents]
    if any(each != networks[0] for each in networks):
        raise ValueError(f"expected agents of one policy_kwargs, got {networks}")
    if agents[0].averaging:
        counts = [int(agent.policy.proposal_updates) for agent in agents]
        if len(set(counts)) > 1:
            raise ValueError(f"expected agents with as many updates behind them, got {counts}")
    shapes = [{k: v.shape for k, v in agent.policy.state_dict().items()} for agent in agents]
    if any(each != shapes[0] for each in shapes):
        raise ValueError("expected agents whose networks have the same shapes, got different ones")
