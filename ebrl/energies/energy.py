"""Energies: one number for each thing in a batch, low where likely, `p(x) ∝ exp(-E(x))`.

An energy maps `x: (*batch, *event)` to `(*batch,)`. Sampling, temperatures and tasks are not its
business. Energies form an algebra: `E1 + E2` is the product of experts, `E / T` is tempered,
`w * E` is weighted, `Mixture([E1, E2], weights)` is a mixture of densities, and
`E.given(condition)` fixes what the energy is conditioned on. Guidance is algebra, too:
`(1 - w) * E + w * E_of_x_and_y` (Ho and Salimans 2021), which evaluates each once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import chain
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

Number = float | Tensor


class Energy(nn.Module):
    """A map from `(*batch, *event)` to `(*batch,)`.

    `event_ndim` is the number of trailing axes of one event: 1 for vectors, 3 for images.
    Subclasses define `forward`; those that know their gradient override `value_and_gradient`, the
    hot call of every sampler. An energy whose value for one event depends on others in the batch
    sets `couples_chains`. Constructors raise `ValueError` for numbers out of range.
    """

    event_ndim: int = 1
    couples_chains: bool = False
    takes_condition: bool = False  # whether it has to be given a condition

    def __init_subclass__(cls, **arguments: Any):
        super().__init_subclass__(**arguments)
        if "prepared" not in vars(cls) and {"forward", "value_and_gradient"} & vars(cls).keys():
            # An inherited `prepared` would evaluate the parent's function.
            cls.prepared = Energy.prepared  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} defines no forward(x)")

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `E(x)`, `(*batch,)`, and its gradient, the shape of `x`, without a graph."""
        if torch.compiler.is_compiling():
            return self.traced_value_and_gradient(x)
        with torch.inference_mode(False), torch.enable_grad():
            x = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
            value = self(x)
            check_one_number_each(value, x, self.event_ndim)
            if not value.requires_grad:
                raise ValueError(
                    f"expected an energy that torch differentiates with respect to x, got a "
                    f"{type(self).__name__} without a graph: leave out detach(), no_grad() and "
                    "NumPy, or sample it by a kernel without gradients, such as IteratedSIR"
                )
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient

    def traced_value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return value and gradient in a form that compiles to one graph; slower in eager mode."""

        def total(x: Tensor) -> tuple[Tensor, Tensor]:
            value = self(x)
            check_one_number_each(value, x, self.event_ndim)
            return value.sum(), value

        gradient, value = torch.func.grad(total, has_aux=True)(x)
        return value, gradient

    def prepared(self) -> Energy:
        """Return an equal energy for many calls from one thread, during which no weight changes.

        Samplers call it at the start of a chain. An override computes once what depends on the
        weights alone; by default it is the energy itself.
        """
        return self

    def given(self, condition: Tensor) -> Energy:
        """Return the energy of `x` alone, with `condition: (*leading batch, *features)` fixed.

        The condition's batch axes are the leading ones of `x`: observations `(B, features)` serve
        candidates `(B, M, dimension)` without being repeated.
        """
        raise TypeError(
            f"{type(self).__name__} takes no condition: call it on x alone, "
            "or build it from an energy that is conditional"
        )

    def __add__(self, other: Energy) -> Energy:
        return Sum([self, other])

    def __radd__(self, other: int) -> Energy:
        return self if other == 0 else NotImplemented  # `sum` begins with 0

    def __sub__(self, other: Energy) -> Energy:
        return Sum([self, -other])

    def __mul__(self, weight: Number) -> Energy:
        if not isinstance(weight, Real | Tensor):  # there is no product of two energies
            return NotImplemented
        return Weighted(self, weight)

    __rmul__ = __mul__

    def __truediv__(self, temperature: Number) -> Energy:
        return Weighted(self, 1 / temperature)

    def __neg__(self) -> Energy:
        return Weighted(self, -1.0)


def check_one_number_each(value: Tensor, x: Tensor, event_ndim: int) -> None:
    """Raise `ValueError` unless `value` has one number for each thing in `x`.

    Raises `TypeError` for what is no tensor.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"expected an energy that returns a tensor, got {type(value).__name__}: compute it "
            "with torch"
        )
    expected = x.shape[: x.ndim - event_ndim]
    if value.shape != expected:
        raise ValueError(
            f"an energy gives one number per sample: expected shape {tuple(expected)}, "
            f"got {tuple(value.shape)} for x of shape {tuple(x.shape)} with {event_ndim} event "
            "axes; sum over the event axes"
        )


def check_energy(energy: object) -> None:
    """Raise `TypeError` unless `energy` is an `Energy`."""
    if not isinstance(energy, Energy):
        raise TypeError(
            f"expected an Energy, got {type(energy).__name__}: wrap a function or a module of x as "
            "FunctionEnergy(function)"
        )


def dtype_of(energy: Energy) -> torch.dtype | None:
    """Return the dtype of the energy's first floating-point weight or buffer, None without one."""
    tensors = chain(energy.parameters(), energy.buffers())
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)


def in_dtype_of(energy: Energy, x: Tensor) -> Tensor:
    """Return x in the energy's dtype, unchanged if x is integer or the energy has no dtype."""
    return x.to(dtype_of(energy)) if x.is_floating_point() else x


def first_order(energy: Energy, x: Tensor) -> Tensor:
    """Return `E(x)`, `(*batch,)`, differentiable once, with respect to x alone.

    For losses that move x and not the energy: gradients of the parameters are never computed. A
    compiled program differentiates the energy itself.
    """
    if torch.compiler.is_compiling():
        return energy(x)
    value, gradient = energy.value_and_gradient(x.detach())
    event_axes = tuple(range(value.ndim, x.ndim))
    return value + (gradient * (x - x.detach())).sum(event_axes)  # equals `value`


class FunctionEnergy(Energy):
    """Any callable as an energy; the parameters of an `nn.Module` are registered.

    Args:
        function: Maps a batch `(n, *event)` to `(n,)`, or one point `(*event,)` to a number.
        event_ndim: The number of axes of one point.
        batched: Whether the function takes a batch; a function of one point is vectorised.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], event_ndim: int = 1, *, batched: bool = True
    ):
        super().__init__()
        if not callable(function):
            raise TypeError(f"expected a function of x, got {type(function).__name__}")
        self.function, self.event_ndim, self.batched = function, event_ndim, batched

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[: x.ndim - self.event_ndim]
        rows = x.reshape(-1, *x.shape[len(batch) :])  # (n, *event)
        value = self.function(rows) if self.batched else torch.vmap(self.function)(rows)
        check_one_number_each(value, rows, self.event_ndim)
        return value.view(batch)


class Flattened(Energy):
    """An energy of vectors, read on events of `event_ndim` axes: one-hot categories, images."""

    def __init__(self, energy: Energy, event_ndim: int):
        super().__init__()
        if energy.event_ndim != 1:
            raise ValueError(f"expected an energy of vectors, got event_ndim={energy.event_ndim}")
        self.energy, self.event_ndim = energy, event_ndim
        self.couples_chains = energy.couples_chains
        self.takes_condition = energy.takes_condition

    def forward(self, x: Tensor) -> Tensor:
        return self.energy(x.flatten(-self.event_ndim))

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.energy.value_and_gradient(x.flatten(-self.event_ndim))
        return value, gradient.view_as(x)

    def prepared(self) -> Energy:
        return Flattened(self.energy.prepared(), self.event_ndim)

    def given(self, condition: Tensor) -> Energy:
        return Flattened(self.energy.given(condition), self.event_ndim)


class Sum(Energy):
    """`E1 + E2 + …`: the product of the experts' densities."""

    terms: Sequence[Energy]

    def __init__(self, terms: Sequence[Energy]):
        super().__init__()
        self.event_ndim, self.couples_chains = _shared_event_ndim(terms), _any_couples(terms)
        self.takes_condition = any(term.takes_condition for term in terms)
        self.terms = nn.ModuleList(terms)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return reduce(torch.add, [term(x) for term in self.terms])

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts = [term.value_and_gradient(x) for term in self.terms]
        values, gradients = zip(*parts, strict=True)
        return reduce(torch.add, values), reduce(torch.add, gradients)

    def prepared(self) -> Energy:
        return Sum([term.prepared() for term in self.terms])

    def given(self, condition: Tensor) -> Energy:
        if not self.takes_condition:
            return super().given(condition)
        return Sum(_given_where_taken(self.terms, condition))


class Weighted(Energy):
    """`weight * E`; `weight` is a number, or `(*leading batch,)` and aligned from the left.

    A tensor becomes a buffer: it moves with the energy and is saved, but not trained or averaged.
    To train the weight, pass an `nn.Parameter`.
    """

    weight: Number

    def __init__(self, energy: Energy, weight: Number):
        super().__init__()
        if not isinstance(weight, Tensor) and not math.isfinite(weight):
            raise ValueError(f"expected a finite weight, got {weight}")
        self.event_ndim, self.couples_chains = energy.event_ndim, energy.couples_chains
        self.takes_condition = energy.takes_condition
        self.energy = energy
        if isinstance(weight, Tensor) and not isinstance(weight, nn.Parameter):
            self.register_buffer("weight", weight)
        else:
            self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        value = self.energy(x)
        return align_left(self.weight, value.ndim) * value

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.energy.value_and_gradient(x)
        weight = align_left(self.weight, value.ndim)
        weight = weight.detach() if isinstance(weight, Tensor) else weight
        return weight * value, over_event(weight, self.event_ndim) * gradient

    def prepared(self) -> Energy:
        return Weighted(self.energy.prepared(), self.weight)

    def given(self, condition: Tensor) -> Energy:
        return Weighted(self.energy.given(condition), self.weight)


class Mixture(Energy):
    """`-log Σ_k w_k exp(-E_k)`: the mixture of the densities `exp(-E_k)`.

    The weights are normalised. They are mixture probabilities only if all normalizers are equal.
    """

    components: Sequence[Energy]
    log_weights: Tensor  # (components,)

    def __init__(self, components: Sequence[Energy], weights: Sequence[float] | Tensor):
        super().__init__()
        self.event_ndim = _shared_event_ndim(components)
        self.couples_chains = _any_couples(components)
        self.takes_condition = any(component.takes_condition for component in components)
        self.components = nn.ModuleList(components)  # type: ignore[assignment]
        self.register_buffer("log_weights", log_probabilities(weights, len(components)))

    def forward(self, x: Tensor) -> Tensor:
        values = torch.stack([component(x) for component in self.components], -1)
        log_joint = self.log_weights - values  # (*batch, components)
        outside = log_joint.isneginf().all(-1, keepdim=True)
        # There the derivative of the logarithm is NaN, which a factor of 0 would not remove.
        value = -torch.logsumexp(log_joint.masked_fill(outside, 0), -1)
        return value.masked_fill(outside.squeeze(-1), math.inf)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts = [component.value_and_gradient(x) for component in self.components]
        values = torch.stack([value for value, _ in parts], -1)  # (*batch, components)
        log_joint = self.log_weights - values
        value = -torch.logsumexp(log_joint, -1)
        # Where every component is infinite, their gradients still lead a trajectory back.
        outside = value.isposinf().unsqueeze(-1)
        shares = torch.where(outside, self.log_weights, log_joint).softmax(-1)
        pulls = [
            over_event(shares[..., k], self.event_ndim) * part for k, (_, part) in enumerate(parts)
        ]
        return value, reduce(torch.add, pulls)

    def prepared(self) -> Energy:
        return self._of([component.prepared() for component in self.components])

    def given(self, condition: Tensor) -> Energy:
        if not self.takes_condition:
            return super().given(condition)
        return self._of(_given_where_taken(self.components, condition))

    def _of(self, components: Sequence[Energy]) -> Mixture:
        """Return the mixture of other components, the weights as they are."""
        mixture = Mixture(components, [1.0] * len(components))
        mixture.log_weights = self.log_weights
        return mixture


def over_event(per_chain: Number, event_ndim: int) -> Number:
    """Shape the numbers of each chain so that they broadcast over the event axes."""
    if isinstance(per_chain, Tensor) and per_chain.ndim > 0:
        return per_chain.reshape(*per_chain.shape, *(1,) * event_ndim)
    return per_chain


def align_left(per_chain: Number, ndim: int) -> Number:
    """Shape the numbers of each chain so that they broadcast over `ndim` axes from the left.

    Raises `ValueError` for numbers of more axes, which would broadcast the other way.
    """
    if isinstance(per_chain, Tensor) and per_chain.ndim > 0:
        if per_chain.ndim > ndim:
            raise ValueError(
                f"expected one number for all chains or one for each, of at most {ndim} axes, got "
                f"shape {tuple(per_chain.shape)}"
            )
        return per_chain.reshape(*per_chain.shape, *(1,) * (ndim - per_chain.ndim))
    return per_chain


def log_probabilities(weights: Sequence[float] | Tensor, components: int) -> Tensor:
    """Return the logarithms of weights normalised to sum to 1, `(components,)`.

    Raises `ValueError` unless each component has one, finite and non-negative, and not all are 0.
    """
    weights = torch.as_tensor(weights)
    if not weights.is_floating_point():
        weights = weights.to(torch.get_default_dtype())
    valid = weights.shape == (components,) and weights.isfinite().all() and (weights >= 0).all()
    if not valid or weights.sum() == 0:
        raise ValueError(
            f"expected {components} non-negative weights with a positive sum, "
            f"got {weights.tolist()}"
        )
    return (weights / weights.sum()).log()


def _shared_event_ndim(energies: Sequence[Energy]) -> int:
    for energy in energies:
        check_energy(energy)
    found = {energy.event_ndim for energy in energies}
    if len(found) != 1:
        raise ValueError(f"expected energies that agree on event axes, got {sorted(found)}")
    return found.pop()


def _any_couples(energies: Sequence[Energy]) -> bool:
    return any(energy.couples_chains for energy in energies)


def _given_where_taken(energies: Sequence[Energy], condition: Tensor) -> list[Energy]:
    return [energy.given(condition) if energy.takes_condition else energy for energy in energies]
