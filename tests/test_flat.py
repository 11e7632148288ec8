"""One flat tensor behind a network's parameters, and its optimiser's step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import generator
from torch import nn

from ebrl.agents import flat

OPTIMISERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "fused Adam": (torch.optim.Adam, {"fused": True, "weight_decay": 0.1, "betas": (0.8, 0.95)}),
    "AMSGrad": (torch.optim.Adam, {"fused": True, "amsgrad": True}),
    "plain Adam": (torch.optim.Adam, {}),
    "AdamW": (torch.optim.AdamW, {"fused": True}),
    "RMSprop": (torch.optim.RMSprop, {}),
}


@pytest.mark.parametrize(("kind", "settings"), OPTIMISERS.values(), ids=OPTIMISERS)
def test_a_step_is_the_optimisers_own(
    kind: type[torch.optim.Optimizer], settings: dict[str, Any]
) -> None:
    stream = generator()
    start = torch.randn(50, generator=stream)
    one, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    ours, theirs = kind([one], lr=0.01, **settings), kind([other], lr=0.01, **settings)
    for rate in (0.01, 0.1, 0.03):
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["lr"] = rate
        one.grad = torch.randn(50, generator=stream)
        other.grad = one.grad.clone()
        flat.step(ours)
        theirs.step()
        assert torch.equal(one, other)
    assert not torch.equal(one, start)
    for name, value in theirs.state[other].items():
        assert torch.equal(ours.state[one][name], value)
    theirs.load_state_dict(ours.state_dict())


def test_the_parameters_are_views_of_the_flat_one() -> None:
    network = nn.Linear(3, 2)
    together = flat.flatten_parameters(network)
    with torch.no_grad():
        together.parameter.fill_(2.0)
    network(torch.ones(3)).sum().backward()
    assert all((parameter == 2).all() for parameter in network.parameters())
    torch.testing.assert_close(together.gradient, torch.ones(8))
    named = flat.split_like(together.gradient, network)
    assert {name: piece.shape for name, piece in named.items()} == {
        "weight": (2, 3),
        "bias": (2,),
    }
