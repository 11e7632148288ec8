"""What every kernel keeps: shapes, independent chains, divergences, and no wait for the host."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from kernel_problems import ON_CATEGORIES, NormalProposal
from problems import PROBLEMS, generator, pairwise
from stepping import IMAGE, Counting, run
from torch import Tensor

from ebrl import Energy, FunctionEnergy
from ebrl.kernels import (
    DMALA,
    DULA,
    GHMC,
    HMC,
    MALA,
    NUTS,
    ULA,
    Cycle,
    Gibbs,
    GibbsWithGradients,
    GradientDescent,
    IndependenceMetropolis,
    IteratedSIR,
    Kernel,
    Tempered,
    Underdamped,
)


class Case(NamedTuple):
    kernel: Kernel
    energy: Energy
    event: tuple[int, ...]

    def start(self, *batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
        if self.energy.event_ndim == 2:  # one-hot categories
            sites, categories = self.event
            index = torch.randint(categories, (*batch, sites), generator=generator(5))
            return torch.nn.functional.one_hot(index, categories).to(dtype)
        return torch.randn(*batch, *self.event, generator=generator(5), dtype=dtype)


SKEWED = PROBLEMS[1].energy
DIAGONAL = torch.tensor([0.6, 1.5])
CASES = {
    "ULA": Case(ULA(), SKEWED, (2,)),
    "MALA": Case(MALA(), SKEWED, (2,)),
    "MALA on images": Case(MALA(), IMAGE, (1, 3, 2)),
    "preconditioned ULA": Case(ULA(DIAGONAL), SKEWED, (2,)),
    "preconditioned MALA": Case(MALA(DIAGONAL), SKEWED, (2,)),
    "HMC": Case(HMC(3), SKEWED, (2,)),
    "HMC with a mass on images": Case(HMC(3, DIAGONAL.expand(1, 3, 2)), IMAGE, (1, 3, 2)),
    "GHMC": Case(GHMC(2, mass=DIAGONAL), SKEWED, (2,)),
    "Underdamped": Case(Underdamped(), SKEWED, (2,)),
    "NUTS": Case(NUTS(4, DIAGONAL), SKEWED, (2,)),
    "NUTS on images": Case(NUTS(4), IMAGE, (1, 3, 2)),
    "IteratedSIR": Case(IteratedSIR(NormalProposal(1.5, 2), 4), SKEWED, (2,)),
    "IndependenceMetropolis": Case(IndependenceMetropolis(NormalProposal(1.5, 2)), SKEWED, (2,)),
    "Cycle": Case(Cycle([IteratedSIR(NormalProposal(1.5, 2), 4), MALA()]), SKEWED, (2,)),
    "Cycle on images": Case(Cycle([MALA(), GHMC()]), IMAGE, (1, 3, 2)),
    "Tempered": Case(Tempered(MALA(), [1.0, 2.0, 5.0]), SKEWED, (2,)),
    "Tempered cycle": Case(
        Tempered(Cycle([IteratedSIR(NormalProposal(1.5, 2), 4), HMC(2)]), [1.0, 2.0]), SKEWED, (2,)
    ),
    "Tempered Gibbs with gradients": Case(
        Tempered(GibbsWithGradients(), [1.0, 3.0]), pairwise(5, 3), (5, 3)
    ),
    "GradientDescent": Case(GradientDescent(0.5), SKEWED, (2,)),
    "GibbsWithGradients": Case(GibbsWithGradients(), pairwise(5, 3), (5, 3)),
    "Gibbs": Case(Gibbs(), pairwise(5, 3), (5, 3)),
    "systematic Gibbs": Case(Gibbs("systematic"), pairwise(5, 3), (5, 3)),
    "DULA": Case(DULA(), pairwise(5, 3), (5, 3)),
    "DMALA": Case(DMALA(), pairwise(5, 3), (5, 3)),
}
every_kernel = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def parts(kernel: Kernel) -> list[Kernel]:
    """Return the kernels that a kernel is made of."""
    inner = getattr(kernel, "kernels", [kernel.kernel] if isinstance(kernel, Tempered) else [])
    return [part for one in inner for part in parts(one)] or [kernel]


def rows(tree: Any, index: Any) -> Any:
    """Return the chains `index` of a state or of a step's noise."""
    if tree is None or isinstance(tree, Tensor):
        return None if tree is None else tree[index]
    if isinstance(tree, dict):
        return {name: rows(field, index) for name, field in tree.items()}
    fields = [rows(field, index) for field in tree]
    return tuple(fields) if type(tree) is tuple else type(tree)(*fields)


def tensors(tree: Any) -> list[Tensor]:
    if tree is None or isinstance(tree, Tensor):
        return [] if tree is None else [tree]
    fields = tree.values() if isinstance(tree, dict) else tree
    return [tensor for field in fields for tensor in tensors(field)]


@every_kernel
@pytest.mark.parametrize("batch", [(), (4,), (4, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shapes_and_types_are_those_of_the_start(
    case: Case, batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = case.start(*batch, dtype=dtype)
    state = case.kernel.start(case.energy, x)
    for _ in range(3):
        noise = case.kernel.draw(state, generator())
        state, info = case.kernel.step(case.energy, state, noise, 0.1, 0.7)
    assert state.x.shape == (*batch, *case.event)
    assert state.energy.shape == info.acceptance.shape == info.diverged.shape == batch
    assert state.x.dtype == state.energy.dtype == dtype
    assert info.diverged.dtype == torch.bool
    torch.testing.assert_close(state.energy, case.energy(state.x))
    assert ((info.acceptance >= 0) & (info.acceptance <= 1)).all()


@every_kernel
def test_a_step_is_a_function_of_its_noise_and_changes_nothing(case: Case) -> None:
    x = case.start(6)
    state = case.kernel.start(case.energy, x)
    noise = case.kernel.draw(state, generator())
    given = [tensor.clone() for tensor in [x, *tensors(state), *tensors(noise)]]
    torch.manual_seed(0)
    random_state = torch.get_rng_state()
    one = case.kernel.step(case.energy, state, noise, 0.2, 0.7)
    two = case.kernel.step(case.energy, state, noise, 0.2, 0.7)
    for first, second in zip(tensors(one), tensors(two), strict=True):
        assert torch.equal(first, second)
    for before, after in zip(given, [x, *tensors(state), *tensors(noise)], strict=True):
        assert torch.equal(before, after)
    assert torch.equal(random_state, torch.get_rng_state())
    assert not any(tensor.requires_grad for tensor in tensors(one))


@every_kernel
def test_chains_are_independent(case: Case) -> None:
    state = case.kernel.start(case.energy, case.start(6))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for seed in range(4):
        noise = case.kernel.draw(state, generator(seed))
        together = case.kernel.step(case.energy, state, noise, 0.3, 0.7)
        permuted = case.kernel.step(case.energy, rows(state, order), rows(noise, order), 0.3, 0.7)
        for all_chains, reordered in zip(tensors(together), tensors(permuted), strict=True):
            torch.testing.assert_close(all_chains[order], reordered)
        for chain in range(6):
            one = slice(chain, chain + 1)
            alone = case.kernel.step(case.energy, rows(state, one), rows(noise, one), 0.3, 0.7)
            for all_chains, single in zip(tensors(together), tensors(alone), strict=True):
                torch.testing.assert_close(all_chains[one], single)
        state = together[0]


@every_kernel
def test_step_size_and_temperature_are_numbers_or_one_for_each_chain(case: Case) -> None:
    state = case.kernel.start(case.energy, case.start(4, 3))
    noise = case.kernel.draw(state, generator())
    number = case.kernel.step(case.energy, state, noise, 0.2, 0.7)
    step_size, temperature = torch.tensor([0.2, 0.7], dtype=torch.float64)
    for shape in [(), (4, 3)]:
        each = case.kernel.step(
            case.energy, state, noise, step_size.expand(shape), temperature.expand(shape)
        )
        for one, other in zip(tensors(number), tensors(each), strict=True):
            torch.testing.assert_close(one, other)
    # Chains at temperatures of their own move as they would alone.
    temperature = torch.linspace(0.3, 2.0, 12, dtype=torch.float64).view(4, 3)
    together = case.kernel.step(case.energy, state, noise, 0.2, temperature)
    alone = case.kernel.step(
        case.energy, rows(state, (2, 1)), rows(noise, (2, 1)), 0.2, temperature[2, 1].item()
    )
    for all_chains, single in zip(tensors(together), tensors(alone), strict=True):
        torch.testing.assert_close(all_chains[2, 1], single)


@every_kernel
@pytest.mark.parametrize("bad", [torch.nan, -torch.inf, torch.inf], ids=str)
def test_moves_without_a_density_are_rejected_and_counted(case: Case, bad: float) -> None:
    def function(x: Tensor) -> Tensor:  # what is bad lies downhill
        first = x.flatten(-case.energy.event_ndim)[..., 0]
        return torch.where(first > 0.5, bad, -2 * first + 0.1 * case.energy(x))

    energy = FunctionEnergy(function, case.energy.event_ndim)
    x = case.start(200)
    x = torch.where((x.flatten(1)[:, 0] > 0.5).view(-1, *(1,) * len(case.event)), x.roll(1, -1), x)
    x = x[energy(x).isfinite()]
    state, acceptance, lost = run(case.kernel, energy, x, 20, 0.3)
    assert len(x) > 20
    assert state.x.isfinite().all()
    assert state.energy.isfinite().all()
    assert ((acceptance >= 0) & (acceptance <= 1 + 1e-6)).all()
    assert (acceptance < 0.999).any() or isinstance(case.kernel, Gibbs)  # which always accepts
    assert (lost.sum() == 0) == (bad == torch.inf)


@every_kernel
def test_an_exploding_step_is_reported_as_a_divergence(case: Case) -> None:
    without = (*ON_CATEGORIES, IndependenceMetropolis, IteratedSIR)
    if any(isinstance(part, without) for part in parts(case.kernel)):
        pytest.skip("no step size, or none that explodes")
    x = case.start(5)
    state, _, lost = run(case.kernel, case.energy, x, 3, torch.inf)
    torch.testing.assert_close(state.x, x)
    assert (lost == 3).all()


def on_meta(tree: Any) -> Any:
    """Return a state or noise without its numbers: only shapes and types."""
    if tree is None or isinstance(tree, Tensor):
        return None if tree is None else tree.to("meta")
    fields = [on_meta(field) for field in tree]
    return tuple(fields) if type(tree) is tuple else type(tree)(*fields)


@every_kernel
def test_a_step_never_waits_for_the_host(case: Case) -> None:
    kinds = {type(kernel) for kernel in parts(case.kernel)}
    if kinds & {NUTS, IteratedSIR, IndependenceMetropolis}:
        pytest.skip("NUTS waits; the proposal of the others lives on the CPU")
    state = case.kernel.start(case.energy, case.start(4))
    noise = case.kernel.draw(state, generator())
    step_size, temperature = (torch.tensor(value, device="meta") for value in (0.2, 0.7))
    # To read a number here, as a branch or `.item()` would, is an error.
    moved, _ = case.kernel.step(case.energy, on_meta(state), on_meta(noise), step_size, temperature)
    assert moved.x.device.type == "meta"


@pytest.mark.parametrize(
    ("name", "values", "gradients"),
    [
        ("ULA", 0, 1 + 5),
        ("MALA", 0, 1 + 5),
        ("preconditioned MALA", 0, 1 + 5),
        ("HMC", 0, 1 + 3 * 5),
        ("GHMC", 0, 1 + 2 * 5),
        ("Underdamped", 0, 1 + 5),
        ("GradientDescent", 0, 1 + 5),
        ("GibbsWithGradients", 0, 1 + 5),
        ("Gibbs", 1 + 5, 0),
        ("DULA", 0, 1 + 5),
        ("DMALA", 0, 1 + 5),
        ("IteratedSIR", 1 + 5, 0),
        ("IndependenceMetropolis", 1 + 5, 0),
        ("Cycle", 1 + 5, 1 + 2 * 5),
        ("Cycle on images", 0, 1 + 2 * 5),
        ("Tempered", 0, 1 + 5),
        ("Tempered cycle", 1 + 5, 1 + 3 * 5),
    ],
)
def test_nothing_is_evaluated_twice(name: str, values: int, gradients: int) -> None:
    case = CASES[name]
    energy = Counting(case.energy)
    run(case.kernel, energy, case.start(4), 5)
    assert (energy.values, energy.gradients) == (values, gradients)
