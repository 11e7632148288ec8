"""Adam as a formula against torch's own, and averages of iterates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ebrl.agents.optimization import AdamState, adam_step, tail_weight

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


def averaged(iterates: Tensor, share: float) -> Tensor:
    average = torch.tensor(torch.nan)
    for i, newest in enumerate(iterates.tolist()):
        weight = tail_weight(share, torch.tensor(i + 1.0)).item()
        average = torch.tensor(newest) if weight == 1 else average + weight * (newest - average)
    return average


def test_an_average_over_everything_weighs_iterates_by_their_number() -> None:
    iterates = torch.randn(50, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(1.0, 51.0)
    expected = (numbers * iterates).sum() / numbers.sum()  # Shamir and Zhang with eta = 1
    torch.testing.assert_close(averaged(iterates, 1.0), expected)


def test_an_average_over_nothing_is_the_newest_iterate() -> None:
    iterates = torch.randn(50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(averaged(iterates, 0.0), iterates[-1])


def test_the_age_of_an_average_is_its_share_of_the_iterates() -> None:
    """The mean age of what is averaged is `share / (1 + 2 share)` of their number."""
    count, share = 20_000, 0.05
    age = count - averaged(torch.arange(1.0, count + 1, dtype=torch.float64), share)
    torch.testing.assert_close(
        age / count, torch.tensor(share / (1 + 2 * share)), rtol=1e-2, atol=0, check_dtype=False
    )
