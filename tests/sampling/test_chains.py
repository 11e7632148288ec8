"""Persistent chains: which are drawn, which start again, and what goes with them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from problems import generator

from ebrl import Gaussian, Sampler
from ebrl.kernels import MALA
from ebrl.networks import MLPEnergy
from ebrl.objectives import persistent, persistent_around
from ebrl.sampling import ChainBatch, Chains
from ebrl.spaces import Box, Strings, Unbounded


def no_op(chains: Chains, n: int, stream: torch.Generator) -> ChainBatch:
    batch = chains.draw(n, stream)
    chains.write(batch.rows, batch.x)
    return batch


def test_chains_start_from_the_reference_of_the_space() -> None:
    batch = Chains(5000, Box(torch.tensor([0.0, 10.0]), torch.tensor([1.0, 12.0]))).draw(
        5000, generator()
    )
    # The mean of n uniform draws has the standard error width / √(12 n).
    error = (batch.x.mean(0) - torch.tensor([0.5, 11.0])).abs()
    assert (error < 4 * torch.tensor([1.0, 2.0]) / (12 * 5000) ** 0.5).all()
    assert torch.equal(batch.rows.sort().values, torch.arange(5000))


def test_chains_that_do_not_move_stay_the_same() -> None:
    chains, stream = Chains(1000, Unbounded(2), restart=0.0), generator()
    everyone = no_op(chains, 1000, stream)
    for _ in range(51):
        assert len(no_op(chains, 256, stream).rows.unique()) == 256
    assert len(chains.positions.unique(dim=0)) == 1000
    assert torch.equal(chains.positions[everyone.rows], everyone.x)


@pytest.mark.parametrize("restart", [0.0, 0.05, 0.5, 1.0])
def test_the_documented_fraction_restarts_from_the_reference(restart: float) -> None:
    chains, stream = Chains(4000, Box(-1.0, 1.0), restart), generator()
    chains.write(no_op(chains, 4000, stream).rows, torch.full((4000, 1), 7.0))
    batches = [chains.draw(400, stream) for _ in range(10)]
    restarted = 0
    far = torch.ones(4000, dtype=torch.bool)
    for batch in batches:
        inside = (batch.x.abs() <= 1).squeeze(-1)
        restarted += int((inside & far[batch.rows]).sum())
        far[batch.rows[inside]] = False
    # A chain of ten draws of a tenth is drawn about once: count first restarts among those far.
    assert torch.equal(chains.positions.squeeze(-1) == 7, far)
    drawn = torch.cat([batch.rows for batch in batches]).bincount(minlength=4000)
    expected = 1 - (1 - restart) ** drawn.double()
    error = (expected * (1 - expected)).sum().sqrt().item()
    assert restarted == pytest.approx(expected.sum().item(), abs=4 * error + 1e-9)


def test_draws_are_copies_and_are_written_back_to_their_places() -> None:
    chains, stream = Chains(10, Unbounded(3), restart=0.0), generator()
    no_op(chains, 10, stream)
    before = chains.positions.clone()
    batch = chains.draw(4, stream)
    batch.x.add_(100)
    assert torch.equal(chains.positions, before)
    chains.write(batch.rows, batch.x)
    assert torch.equal(chains.positions[batch.rows], before[batch.rows] + 100)
    others = torch.ones(10, dtype=torch.bool).index_fill(0, batch.rows, False)
    assert torch.equal(chains.positions[others], before[others])


def test_conditions_travel_with_their_chains() -> None:
    chains, stream = Chains(500, Unbounded(2), restart=0.1), generator()
    held = torch.full((500,), -1)
    for step in range(40):
        condition = torch.randint(0, 10, (100,), generator=stream)
        before = chains.positions.clone() if step else None
        batch = chains.draw(100, stream, condition)
        if before is not None:
            goes_on = (batch.x == before[batch.rows]).all(-1) & (held[batch.rows] >= 0)
            assert torch.equal(batch.condition[goes_on], held[batch.rows][goes_on])
            assert torch.equal(batch.condition[~goes_on], condition[~goes_on])
            assert (~goes_on).any()
        held[batch.rows] = batch.condition
        # Each chain marks its place with its label: they must never part.
        chains.write(batch.rows, batch.condition.view(-1, 1) + torch.rand(100, 2, generator=stream))
        assert batch.condition.dtype == torch.int64
    assert (held >= 0).all()
    assert torch.equal(chains.conditions, held)
    assert torch.equal(chains.positions.floor().long(), held.view(-1, 1).expand(-1, 2))


def test_conditions_may_be_vectors() -> None:
    batch = Chains(5, Unbounded(1)).draw(3, generator(), torch.ones(3, 4, requires_grad=True))
    assert torch.equal(batch.condition, torch.ones(3, 4))
    assert not batch.condition.requires_grad


@pytest.mark.parametrize("begun", [False, True])
def test_a_new_population_continues_from_a_state(begun: bool) -> None:
    chains = Chains(50, Unbounded(2), restart=0.3)
    first = generator()
    if begun:
        chains.draw(20, first, torch.arange(20))
    restored = torch.nn.ModuleDict({"chains": Chains(50, Unbounded(2), restart=0.3)})
    restored.load_state_dict({f"chains.{k}": v.clone() for k, v in chains.state_dict().items()})
    second = generator()
    second.set_state(first.get_state())
    for _ in range(3):
        one = chains.draw(20, first, torch.arange(20))
        two = restored["chains"].draw(20, second, torch.arange(20))
        for mine, theirs in zip(one, two, strict=True):
            assert torch.equal(mine, theirs)


def test_a_started_population_loads_the_state_of_a_new_one() -> None:
    chains, fresh = Chains(5, Unbounded(2)), Chains(5, Unbounded(2))
    chains.draw(5, generator())
    chains.load_state_dict(fresh.state_dict())
    assert torch.equal(chains.draw(5, generator(1)).x, fresh.draw(5, generator(1)).x)


def test_the_population_has_its_own_dtype() -> None:
    chains = Chains(5, Unbounded(2)).double()
    assert chains.draw(3, generator()).x.dtype == torch.float64
    chains.float()
    assert chains.draw(3, generator()).x.dtype == torch.float32


def test_chains_of_integers_are_integers() -> None:
    chains = Chains(5, Strings(4, 3)).double()
    batch = chains.draw(3, generator())
    assert batch.x.dtype == torch.int64
    chains.write(batch.rows, batch.x)
    assert torch.equal(chains.positions[batch.rows], batch.x)


def test_chains_converge_over_many_short_calls() -> None:
    chains, stream = Chains(2000, Box(5.0, 8.0), restart=0.0), generator()
    sampler = Sampler(MALA(), steps=2, step_size=0.1)
    for _ in range(60):
        batch = chains.draw(1000, stream)
        moved = sampler.sample(Gaussian(0.0, 1.0, 1), batch.x, generator=stream).x
        chains.write(batch.rows, moved)
    assert abs(chains.positions.mean().item()) < 4 / 2000**0.5
    assert chains.positions.var().item() == pytest.approx(1, abs=4 * (2 / 2000) ** 0.5)


def begun(condition: torch.Tensor | None = None) -> Chains:
    chains = Chains(5, Unbounded(2))
    chains.draw(3, generator(), condition)
    return chains


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Chains(0, Unbounded(2)), "size >= 1, got 0"),
        (lambda: Chains(5, Unbounded(2), 1.5), "expected a probability .* got 1.5"),
        (lambda: begun().draw(6, generator()), "between 1 and 5 chains, all distinct, got 6"),
        (lambda: begun().draw(0, generator()), "between 1 and 5 chains, all distinct, got 0"),
        (lambda: Chains(5, Unbounded()).draw(2, generator()), "must know its event shape"),
        (lambda: begun().draw(2, generator(), torch.ones(2)), "expected one with no draw"),
        (lambda: begun(torch.ones(3)).draw(2, generator()), "expected one with every draw"),
        (lambda: begun(torch.ones(3)).draw(2, generator(), torch.ones(2, 1)), r"conditions of"),
        (lambda: Chains(5, Unbounded(2)).draw(2, generator(), torch.ones(3)), "each of 2 chains"),
        (lambda: begun().write(torch.arange(2), torch.ones(2, 3)), r"of shape \(2, 2\), got"),
        (lambda: begun().to("meta").draw(2, generator()), "expected a generator on meta"),
        (
            lambda: Chains(4, Unbounded(2)).load_state_dict(begun().state_dict()),
            "size mismatch for started",
        ),
    ],
)
def test_bad_input_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=message):
        call()


def test_chains_of_inference_mode_serve_a_training_later() -> None:
    objective = persistent(Unbounded(2), chains=20)
    energy = MLPEnergy(2, (8,))
    with torch.inference_mode():
        objective(energy, torch.zeros(10, 2), generator=generator())
        made_there = persistent_around(torch.randn(20, 2, generator=generator()), chains=20)
    for one in (objective, made_there):
        one(energy, torch.zeros(10, 2), generator=generator()).loss.backward()
        assert not any(buffer.is_inference() for buffer in one.buffers())


def test_an_int_seed_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected a torch.Generator, got int"):
        Chains(5, Unbounded(2)).draw(3, 0)
