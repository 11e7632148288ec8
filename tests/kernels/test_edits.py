"""Edits of strings: exact on spaces that are small enough to enumerate."""

from __future__ import annotations

import pytest
import torch
from problems import generator
from torch import Tensor

from ebrl import FunctionEnergy, Sampler
from ebrl.estimators import exact_log_probabilities
from ebrl.kernels import Edits, IteratedSIR, ReferenceProposal
from ebrl.kernels.edits import closed, opened
from ebrl.spaces import Strings, string_lengths

SPACE = Strings(3, 4, first=1, shortest=1)


def rugged(x: Tensor) -> Tensor:
    """An energy that depends on order, length and neighbours."""
    place = torch.arange(1, x.shape[-1] + 1)
    neighbours = (x[..., 1:] == x[..., :-1]) & (x[..., 1:] > 0)
    return 0.3 * (x * place).sum(-1) - neighbours.sum(-1) - 0.8 * string_lengths(x)


ENERGY = FunctionEnergy(rugged)


class Skewed:
    """A filling that favours some categories, and depends on what is left of the hole."""

    def log_probabilities(self, x: Tensor, place: Tensor) -> Tensor:
        left = torch.where(
            place > 0, x.gather(-1, (place - 1).clamp_min(0).unsqueeze(-1))[..., 0], 0
        )
        logits = torch.tensor([-torch.inf, 0.5, 0.0, -0.7]) + torch.zeros(*place.shape, 4)
        logits[..., 3] += 0.5 * left
        return logits.log_softmax(-1)


def total_variation(kernel: Edits | IteratedSIR, temperature: float, steps: int = 200) -> float:
    sampler = Sampler(kernel, SPACE, steps=steps, temperature=temperature)
    n = 10_000
    x = sampler.sample(ENERGY, n=n, generator=generator(1)).x
    counts = torch.bincount(SPACE.index(x), minlength=len(SPACE.states())).double() / n
    law = exact_log_probabilities(ENERGY, SPACE, temperature).exp()
    return float((counts - law).abs().sum() / 2)


# Perfect samples of this size are .018 away in the mean.
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(
    "kernel",
    [
        Edits(SPACE),
        Edits(SPACE, Skewed()),
        Edits(SPACE, Skewed(), substitutions=0.2),
        IteratedSIR(ReferenceProposal(SPACE), 4),
    ],
    ids=["uniform", "skewed", "few substitutions", "iterated SIR"],
)
def test_chains_sample_the_energy(kernel: Edits | IteratedSIR, temperature: float) -> None:
    assert total_variation(kernel, temperature) < 0.03


def test_substitutions_alone_keep_the_length() -> None:
    x = SPACE.reference((500,), generator(0))
    sampler = Sampler(Edits(SPACE, substitutions=1.0), SPACE, steps=10)
    moved = sampler.sample(ENERGY, x, generator=generator(1)).x
    assert string_lengths(moved).equal(string_lengths(x))
    assert (moved != x).any()


def test_draws_of_strings_report_each_draw() -> None:
    sampler = Sampler(Edits(SPACE), SPACE, steps=1)
    trace = sampler.trace(ENERGY, n=5, draws=4, thin=3, generator=generator(0))
    assert trace.x.dtype == torch.int64
    assert trace.each.acceptance.shape == (4, 5)
    torch.testing.assert_close(trace.each.acceptance.mean(0), trace.info.acceptance)


def test_closing_a_hole_undoes_opening_it() -> None:
    x = torch.tensor([[1, 2, 3, 0], [1, 2, 0, 0]])
    place = torch.tensor([1, 2])
    holed = opened(x, place)
    assert holed[:, [0]].equal(x[:, [0]])
    assert holed[0].tolist() == [1, 1, 2, 3]
    assert string_lengths(holed).tolist() == [4, 3]
    assert closed(holed, place).equal(x)


def test_strings_must_be_integers() -> None:
    sampler = Sampler(Edits(SPACE), SPACE, steps=1)
    with pytest.raises(ValueError, match="integers"):
        sampler.sample(ENERGY, torch.ones(2, 3), generator=generator(0))


def test_a_share_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match="substitutions"):
        Edits(SPACE, substitutions=1.5)
