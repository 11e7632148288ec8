"""Energies of sentences: their definitions, on spaces small enough to enumerate."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from problems import generator

from ebrl import Energy, Sampler
from ebrl.estimators import exact_log_normalizer, exact_log_probabilities
from ebrl.kernels import (
    DMALA,
    Edits,
    Gibbs,
    GibbsWithGradients,
    IndependenceMetropolis,
    IteratedSIR,
    Kernel,
)
from ebrl.sampling import importance_resampling
from ebrl.sequences.energies import (
    CausalEnergy,
    FrequencyEnergy,
    MaskedEnergy,
    OneHot,
    ScorerEnergy,
    SentenceEnergy,
    token_parts,
)
from ebrl.sequences.filling import MaskedFilling
from ebrl.sequences.tokens import BOUNDARY, MASK, PAD, SPECIAL
from ebrl.sequences.transformer import PREDICTED, Transformer
from ebrl.spaces import Categorical, Strings

WORDS = 3
FIRST = len(SPECIAL)
VOCABULARY = FIRST + WORDS
LONGEST = 3


def transformer(seed: int = 0) -> Transformer:
    """Return one with weights large enough for laws that are far from uniform."""
    torch.manual_seed(seed)
    small = Transformer(VOCABULARY, 16, 2, 2, 16, context=LONGEST + 2).eval()
    for parameter in small.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return small.requires_grad_(False)


TRANSFORMER = transformer()
CAUSAL, MASKED, SCORER = (kind(TRANSFORMER) for kind in (CausalEnergy, MaskedEnergy, ScorerEnergy))
torch.nn.init.normal_(SCORER.head[2].weight, std=0.2)
KINDS = [CAUSAL, MASKED, SCORER]
SPACE = Strings(LONGEST, VOCABULARY, first=FIRST, shortest=0)


def one_hot_tokens(x: torch.Tensor) -> torch.Tensor:
    """Return sentences `(n, length)` without padding as `OneHot` reads them."""
    return torch.nn.functional.one_hot(x - FIRST, WORDS).float()


def names(kind: SentenceEnergy) -> str:
    return type(kind).__name__


def test_a_language_models_probabilities_sum_to_1() -> None:
    torch.testing.assert_close(
        exact_log_normalizer(CAUSAL, SPACE), torch.zeros((), dtype=torch.float64), atol=1e-5, rtol=0
    )


def test_a_language_model_draws_what_its_energy_says() -> None:
    n, states = 20_000, SPACE.states()
    counts = torch.bincount(
        SPACE.index(CAUSAL.sample((n,), generator(0))), minlength=len(states)
    ).float()
    law = CAUSAL.log_density(states).exp()
    assert ((counts / n - law).abs() <= 5 * (law / n).sqrt() + 1e-4).all()


def test_a_prefix_stays_and_the_rest_has_the_law_given_it() -> None:
    prefix = torch.tensor([4])
    drawn = CAUSAL.sample((20_000,), generator(0), prefix=prefix)
    assert (drawn[:, 0] == 4).all()
    states = SPACE.states()
    states = states[states[:, 0] == 4]
    law = torch.softmax(-CAUSAL(states), 0)
    counts = (drawn[:, None] == states).all(-1).float().mean(0)
    assert ((counts - law).abs() <= 5 * (law / 20_000).sqrt() + 1e-4).all()


@pytest.mark.parametrize(
    ("prefix", "temperature"), [(1, 0.0), (1, float("nan")), (LONGEST + 1, 1.0)]
)
def test_draws_that_cannot_be_made_are_refused(prefix: int, temperature: float) -> None:
    with pytest.raises(ValueError, match=rf"a prefix of at most {LONGEST} tokens, got temp"):
        CAUSAL.sample(
            (2,), generator(0), prefix=torch.full((prefix,), FIRST), temperature=temperature
        )


def test_after_a_prefix_only_what_may_follow_comes() -> None:
    allowed = torch.zeros(VOCABULARY, dtype=torch.bool)
    allowed[5] = True
    drawn = CAUSAL.sample((200,), generator(0), prefix=torch.tensor([4]), after_prefix=allowed)
    assert (drawn[:, 1] == 5).all()
    assert len(drawn[:, 2].unique()) > 1


def test_sentences_without_a_token_have_no_pseudo_likelihood() -> None:
    assert MASKED(torch.zeros(3, 2, dtype=torch.long)).tolist() == [0, 0, 0]


def test_a_sentence_that_is_too_long_is_refused() -> None:
    long = torch.full((1, CAUSAL.longest + 1), 4)
    with pytest.raises(ValueError, match=f"at most {CAUSAL.longest} tokens"):
        CAUSAL(long)


def test_a_narrowed_transformer_has_the_conditional_law() -> None:
    x = torch.tensor([[4, 3], [3, 3]])
    narrow = CausalEnergy(TRANSFORMER.narrowed(5))
    embedded = TRANSFORMER.embed(torch.tensor([[BOUNDARY, 4], [BOUNDARY, 3]]))
    logits = TRANSFORMER.logits(TRANSFORMER(embedded))[..., : 5 - BOUNDARY]
    expected = -torch.log_softmax(logits, -1).gather(-1, (x - BOUNDARY).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(narrow.per_token(x)[:, :2], expected)


def test_a_narrowed_transformer_keeps_all_else_and_draws_no_numbers() -> None:
    wide = Transformer(VOCABULARY, 16, 2, 2, 16, dropout=0.3).double().requires_grad_(False)
    before = torch.get_rng_state()
    narrow = wide.narrowed(5)
    assert torch.get_rng_state().equal(before)
    assert narrow.dropout.p == narrow.blocks[0].dropout.p == 0.3
    assert {weight.dtype for weight in narrow.parameters()} == {torch.float64}
    assert not any(weight.requires_grad for weight in narrow.parameters())
    assert (narrow.sizes["vocabulary"], wide.sizes["vocabulary"]) == (5, VOCABULARY)
    Transformer(**narrow.sizes).load_state_dict(narrow.state_dict())
    with pytest.raises(ValueError, match=f"vocabulary <= {VOCABULARY}, got 60"):
        wide.narrowed(60)


def test_the_masked_energy_is_the_sum_of_each_token_given_the_others() -> None:
    x = torch.tensor([5, 3, 4])
    total = torch.tensor(0.0)
    for place in range(3):
        row = torch.cat([torch.tensor([BOUNDARY]), x, torch.tensor([BOUNDARY])]).unsqueeze(0)
        row[0, place + 1] = MASK
        features = TRANSFORMER(TRANSFORMER.embed(row), torch.tensor([5]))[0, place]
        total -= TRANSFORMER.logits(features).log_softmax(-1)[x[place] - PREDICTED]
    torch.testing.assert_close(MASKED(x), total)


@pytest.mark.parametrize("kind", KINDS, ids=names)
def test_padding_and_the_rest_of_a_batch_change_no_energy(kind: SentenceEnergy) -> None:
    states = SPACE.states()[1:]
    together = kind(states.view(3, -1, LONGEST))
    for row, value in zip(states, together.flatten(), strict=True):
        alone = row[row != PAD]
        torch.testing.assert_close(kind(alone), value, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            kind(torch.cat([alone, torch.full((5,), PAD)])), value, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("kind", KINDS, ids=names)
def test_what_is_no_sentence_has_infinite_energy(kind: SentenceEnergy) -> None:
    x = torch.tensor([[3, PAD, 4], [3, MASK, 4], [BOUNDARY, 3, 4], [3, 4, 5]])
    assert kind(x).isinf().tolist() == [True, True, True, False]


@pytest.mark.parametrize("kind", KINDS, ids=names)
def test_the_parts_of_the_tokens_sum_to_the_energy(kind: SentenceEnergy) -> None:
    x = SPACE.states()[-9:]
    torch.testing.assert_close(kind.per_token(x).sum(1), kind(x))


def test_energies_compose_and_so_do_their_parts() -> None:
    x = SPACE.states()[-9:]
    composed = CAUSAL + 0.5 * MASKED - SCORER
    torch.testing.assert_close(composed(x), CAUSAL(x) + 0.5 * MASKED(x) - SCORER(x))
    torch.testing.assert_close(token_parts(composed, x).sum(1), composed(x))


@pytest.mark.parametrize("kind", KINDS, ids=names)
def test_one_hot_tokens_have_the_same_energy_and_a_gradient(kind: SentenceEnergy) -> None:
    x = SPACE.states()[-27:]
    one_hot = one_hot_tokens(x)
    value, gradient = OneHot(kind).value_and_gradient(one_hot)
    torch.testing.assert_close(value, kind(x), atol=1e-5, rtol=1e-5)
    assert gradient.shape == one_hot.shape
    assert gradient.isfinite().all()
    assert (gradient.abs().amax((1, 2)) > 0).all()


def test_the_gradient_foretells_what_another_token_costs() -> None:
    x = SPACE.states()[-27:]
    one_hot = one_hot_tokens(x)
    _, gradient = OneHot(CAUSAL).value_and_gradient(one_hot)
    last = x.shape[1] - 1  # its own loss, and that of the end, which follows it
    foretold = gradient[:, last] - gradient[:, last].gather(1, x[:, last:] - FIRST)
    true = []
    for token in range(len(SPECIAL), VOCABULARY):
        other = x.clone()
        other[:, last] = token
        true.append(CAUSAL(other) - CAUSAL(x))
    changes = torch.stack(true, 1).flatten(), foretold.flatten()
    assert torch.corrcoef(torch.stack(changes))[0, 1] > 0.7


def stays(kernel: Kernel, energy: Energy, space: Categorical | Strings, steps: int = 5) -> bool:
    """Whether a chain that starts from the law of the energy moves and keeps that law."""
    n, law = 10_000, exact_log_probabilities(energy, space).exp()
    start = torch.multinomial(law, n, replacement=True, generator=generator(0))
    sampler = Sampler(kernel, space, steps=steps, step_size=1.0)
    drawn = sampler.sample(energy, space.states()[start], generator=generator(1)).x
    moved = space.index(drawn)
    counts = torch.bincount(moved, minlength=len(law)) / n
    assert (moved != start).double().mean() > 0.02
    return bool(((counts - law).abs() <= 5 * (law / n).sqrt() + 1e-3).all())


@pytest.mark.parametrize(
    "kernel", [Gibbs(), GibbsWithGradients(), DMALA()], ids=lambda kernel: type(kernel).__name__
)
def test_discrete_kernels_are_exact_on_sentences_of_a_length(kernel: Kernel) -> None:
    assert stays(kernel, OneHot(CAUSAL), Categorical(2, WORDS))


@pytest.mark.parametrize("kind", KINDS, ids=names)
def test_every_reference_draw_of_one_hot_tokens_is_a_sentence(kind: SentenceEnergy) -> None:
    space = Categorical(LONGEST, WORDS)
    assert OneHot(kind)(space.reference((100,), generator(0))).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS, ids=names)
def test_energies_have_the_precision_of_the_model_and_float32_at_least(
    kind: SentenceEnergy, dtype: torch.dtype
) -> None:
    x, wide = SPACE.states()[-27:], torch.promote_types(dtype, torch.float32)
    cast = deepcopy(kind).to(dtype)
    for value in (cast(x), OneHot(cast)(one_hot_tokens(x).to(dtype))):
        assert value.dtype == wide
        torch.testing.assert_close(value.float(), kind(x), atol=0.1, rtol=0.02)
    assert cast(torch.zeros_like(x)).dtype == wide


@pytest.mark.parametrize("kind", KINDS, ids=names)
def test_one_hot_tokens_are_read_under_autocast(kind: SentenceEnergy) -> None:
    x = SPACE.states()[-27:]
    with torch.autocast("cpu", torch.bfloat16):
        value = OneHot(kind)(one_hot_tokens(x))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, kind(x), atol=0.1, rtol=0.02)


def test_token_frequencies_weigh_sentences_and_leave_the_rest_infinite() -> None:
    frequency = FrequencyEnergy(torch.linspace(-3.0, -1.0, VOCABULARY))
    x = torch.tensor([[3, MASK, 4], [3, PAD, 4], [3, 4, 5]])
    assert frequency(x).tolist()[:2] == [0, 0]
    assert (CAUSAL - 2.0 * frequency)(x).isposinf().tolist() == [True, True, False]


@pytest.mark.parametrize("kind", KINDS, ids=names)
def test_integers_of_any_width_are_sentences(kind: SentenceEnergy) -> None:
    x = SPACE.states()[-9:]
    assert kind(x.int()).equal(kind(x))


@pytest.mark.parametrize(
    "kernel",
    [
        Edits(SPACE, MaskedFilling(TRANSFORMER)),
        Edits(SPACE, MaskedFilling(TRANSFORMER, allowed=torch.arange(VOCABULARY) > FIRST)),
        IteratedSIR(CAUSAL, 4),
    ],
    ids=["edits", "edits of some tokens", "iterated SIR"],
)
def test_kernels_of_strings_are_exact_on_sentences_of_any_length(kernel: Kernel) -> None:
    assert stays(kernel, CAUSAL + SCORER, SPACE)


NO_EMPTY = Strings(LONGEST, VOCABULARY, first=FIRST, shortest=1)


@pytest.mark.parametrize(
    "kernel",
    [IteratedSIR(CAUSAL, 4), IndependenceMetropolis(CAUSAL), Edits(NO_EMPTY)],
    ids=lambda kernel: type(kernel).__name__,
)
def test_a_proposal_with_draws_outside_of_the_space_leaves_chains_inside(kernel: Kernel) -> None:
    assert not NO_EMPTY.contains(CAUSAL.sample((200,), generator(0))).all()
    assert stays(kernel, CAUSAL + SCORER, NO_EMPTY)


def test_points_are_resampled_from_draws_inside_of_the_space() -> None:
    x = importance_resampling(
        CAUSAL, CAUSAL, (500,), generator=generator(0), candidates=32, space=NO_EMPTY
    ).x
    assert NO_EMPTY.contains(x).all()


def test_more_tokens_than_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="split the text"):
        CAUSAL(torch.full((1, LONGEST + 3), FIRST))


def test_reading_token_by_token_is_reading_all_at_once() -> None:
    x = torch.tensor([[BOUNDARY, 3, 5, 4]])
    whole, memory = TRANSFORMER(TRANSFORMER.embed(x)), TRANSFORMER.memory()
    parts = [TRANSFORMER(TRANSFORMER.embed(x[:, i : i + 1]), memory=memory) for i in range(4)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-5)


def test_a_draw_may_have_no_tokens_at_all() -> None:
    generator = torch.Generator().manual_seed(0)
    assert (CAUSAL.sample((5,), generator, longest=0) == PAD).all()
    assert (CAUSAL.sample((50,), generator, longest=1)[:, 1:] == PAD).all()


def test_a_single_sentence_of_one_hot_tokens_needs_no_batch() -> None:
    x = one_hot_tokens(torch.tensor([[FIRST, FIRST + 1]]))
    torch.testing.assert_close(OneHot(CAUSAL)(x[0]), OneHot(CAUSAL)(x)[0])


@pytest.mark.parametrize("uniform", [-0.1, 1.0])
def test_a_filling_that_is_uniform_alone_is_refused(uniform: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        MaskedFilling(TRANSFORMER, uniform)


def test_a_filling_writes_allowed_tokens_alone() -> None:
    allowed = torch.arange(VOCABULARY) != FIRST + 1
    x, place = torch.tensor([[FIRST, FIRST + 1, FIRST]]), torch.tensor([1])
    for uniform in (0.0, 0.3):
        free = MaskedFilling(TRANSFORMER, uniform).log_probabilities(x, place)[0]
        law = MaskedFilling(TRANSFORMER, uniform, allowed).log_probabilities(x, place)[0]
        assert law[FIRST + 1] == -torch.inf
        assert law.exp().sum() == pytest.approx(1, abs=1e-5)
        if not uniform:
            kept = free.masked_fill(~allowed, -torch.inf).log_softmax(0)
            torch.testing.assert_close(law, kept)
