"""Energies of binary and categorical sites: Ising and Potts models, restricted Boltzmann machines.

A coupling is a symmetric `(sites, sites)` tensor with a zero diagonal, such as that of
`square_lattice`; anything else is a `ValueError`. Positive couplings make neighbours agree.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ebrl.energies.energy import Energy, Number
from ebrl.ranges import check_at_least


def square_lattice(
    rows: int, columns: int, strength: float = 1.0, *, periodic: bool = True
) -> Tensor:
    """Return the coupling of a grid, `(rows * columns, rows * columns)`, sites row by row.

    Each site is coupled to its right and its lower neighbour: along a periodic axis of 2 sites
    twice, along an axis of 1 site not at all.
    """
    sites = torch.arange(rows * columns).view(rows, columns)
    coupling = torch.zeros(rows * columns, rows * columns)
    for axis, length in enumerate((rows, columns)):
        neighbours = sites.roll(-1, axis)
        edges = length if periodic and length > 1 else length - 1
        here, there = (each.narrow(axis, 0, edges).flatten() for each in (sites, neighbours))
        coupling[here, there] += strength
        coupling[there, here] += strength
    return coupling


class Ising(Energy):
    """`-½ Σ J_ij s_i s_j - Σ b_i s_i` over spins `s = 2x - 1`, binary `x: (*batch, sites)`.

    J is the `coupling`, and b the `field`, a number or `(sites,)`.
    """

    coupling: Tensor  # (sites, sites)
    field: Tensor  # (sites,)

    def __init__(self, coupling: Tensor, field: Number = 0.0):
        super().__init__()
        self.register_buffer("coupling", _as_coupling(coupling))
        field = torch.as_tensor(field, dtype=self.coupling.dtype).expand(len(coupling)).clone()
        self.register_buffer("field", field)

    def forward(self, x: Tensor) -> Tensor:
        return self.value_and_gradient(x)[0]

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x if x.is_floating_point() else x.to(self.coupling.dtype)
        spins, field = 2 * x - 1, self.field.to(x)
        pull = spins @ self.coupling.to(x)
        return -(spins * (0.5 * pull + field)).sum(-1), -2 * (pull + field)


class Potts(Energy):
    """`-½ Σ J_ij [x_i = x_j] - Σ b_i · x_i` over one-hot `x: (*batch, sites, categories)`.

    J is the `coupling`, and b the `field`, `(sites, categories)` or None for 0.
    """

    event_ndim = 2
    coupling: Tensor  # (sites, sites)
    field: Tensor  # (sites, categories), or (sites, 1) of zeros

    def __init__(self, coupling: Tensor, field: Tensor | None = None):
        super().__init__()
        self.register_buffer("coupling", _as_coupling(coupling))
        field = coupling.new_zeros(len(coupling), 1) if field is None else field
        if field.ndim != 2 or len(field) != len(coupling):
            raise ValueError(
                f"expected a field of shape ({len(coupling)}, categories), got {tuple(field.shape)}"
            )
        self.register_buffer("field", field.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.value_and_gradient(x)[0]

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x if x.is_floating_point() else x.to(self.coupling.dtype)
        field, pull = self.field.to(x), self.coupling.to(x) @ x
        return -(x * (0.5 * pull + field)).sum((-2, -1)), -(pull + field)


class RBM(Energy):
    """The free energy of a restricted Boltzmann machine, `-b · v - Σ_j softplus(c_j + W_j · v)`.

    The visible units are binary, `v: (*batch, visible)`, and the hidden units are summed out
    (Hinton 2002). The weights W, `(hidden, visible)`, start at N(0, .01²), the biases b and c at 0.
    """

    def __init__(self, visible: int, hidden: int):
        super().__init__()
        check_at_least(1, visible=visible, hidden=hidden)
        self.weight = nn.Parameter(0.01 * torch.randn(hidden, visible))
        self.visible_bias = nn.Parameter(torch.zeros(visible))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Tensor) -> Tensor:
        return -(x @ self.visible_bias) - nn.functional.softplus(self.hidden_logits(x)).sum(-1)

    def hidden_logits(self, x: Tensor) -> Tensor:
        """Return the logits of the hidden units given the visible, `(*batch, hidden)`."""
        return nn.functional.linear(x, self.weight, self.hidden_bias)

    def visible_logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of the visible units given the hidden, `(*batch, visible)`."""
        return hidden @ self.weight + self.visible_bias


def _as_coupling(coupling: Tensor) -> Tensor:
    """Return a copy of the coupling; `ValueError` if it is not symmetric with a zero diagonal."""
    square = coupling.ndim == 2 and coupling.shape[0] == coupling.shape[1]
    if not square or not torch.equal(coupling, coupling.mT) or coupling.diagonal().any():
        raise ValueError(
            "expected a symmetric coupling (sites, sites) with a zero diagonal, "
            f"got shape {tuple(coupling.shape)}: average it with its transpose"
        )
    return coupling.to(torch.promote_types(coupling.dtype, torch.float32), copy=True)
