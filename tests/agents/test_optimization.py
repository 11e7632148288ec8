"""Adam as a formula against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ebrl.agents.optimization import AdamState, adam_step

STEPS = 5


def parameters() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(size, generator=generator)) for size in ((3, 4), (4,))]


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.999), (0.0, 0.99)], ids=str)
def test_a_step_is_that_of_torch(betas: tuple[float, float]) -> None:
    ours, theirs = parameters(), parameters()
    optimizers = [torch.optim.Adam(each, lr=0.1, betas=betas) for each in (ours, theirs)]
    generator = torch.Generator().manual_seed(1)
    for k in range(STEPS):
        gradients = [torch.randn(each.shape, generator=generator) for each in ours]
        state = AdamState.of(optimizers[0], torch.zeros(()))
        assert (state is None) == (k == 0)  # torch creates the state
        for parameter, own, gradient in zip(theirs, ours, gradients, strict=True):
            parameter.grad, own.grad = gradient, gradient.clone()
        optimizers[1].step()
        if state is None:
            optimizers[0].step()
        else:
            adam_step(ours, gradients, state)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
    steps = [optimizers[0].state[each]["step"].item() for each in ours]
    assert steps == [STEPS, STEPS]
