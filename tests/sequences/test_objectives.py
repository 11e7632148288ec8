"""How energies of sentences are trained: corruption, contrast, and noise contrast."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from languages import SENTENCES, animals
from problems import generator

from ebrl.energies import Energy
from ebrl.objectives import NCE
from ebrl.sequences.corruption import MinimalPairs, corrupted, moved, replaced, shortened, swapped
from ebrl.sequences.energies import CausalEnergy, ScorerEnergy
from ebrl.sequences.objectives import Contrast, Draws, HybridLikelihood
from ebrl.sequences.tokens import Tokenizer, padded
from ebrl.sequences.transformer import Transformer
from ebrl.spaces import Strings, string_lengths
from ebrl.training import fit
from ebrl.training.muon import Muon
from ebrl.training.ragged import Ragged


class Linear(Energy):
    """The weighted sum of a row's numbers."""

    event_ndim = 1

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() @ self.weight


X = padded([torch.arange(3, 3 + n) for n in (1, 2, 5, 8)], 9)
SPACE = Strings(9, 20, first=3)


@pytest.mark.parametrize("fault", [replaced, swapped, shortened, moved, corrupted])
def test_a_corrupted_sentence_is_a_sentence(fault: object) -> None:
    for seed in range(20):
        assert SPACE.contains(fault(X, generator(seed))).all()  # type: ignore[operator]


def test_each_fault_does_what_it_says() -> None:
    def same_tokens(one: torch.Tensor) -> bool:
        return one.sort(1).values.equal(X.sort(1).values)

    stream = generator(0)
    assert ((replaced(X, stream) != X).sum(1) <= 1).all()
    assert same_tokens(swapped(X, stream))
    assert same_tokens(moved(X, stream))
    assert string_lengths(shortened(X, stream)).tolist() == [1, 1, 4, 7]


def test_contrast_learns_to_tell_real_from_corrupted() -> None:
    language = animals()
    data = Ragged(language.tokenizer.encode_all(SENTENCES))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        scorer = ScorerEnergy(language.causal.transformer, 16)
        metrics: list[float] = []
        fit(
            scorer,
            data,
            Contrast(),
            steps=60,
            batch_size=32,
            learning_rate=1e-2,
            generator=generator(0),
            callbacks=[lambda _, found: metrics.append(float(found["ranked_below"]))],
        )
    assert sum(metrics[-10:]) / 10 > 0.9


def test_what_is_learnt_beside_an_energy_is_what_it_lacks() -> None:
    """The energy beside tells pairs by their first token; what is left is the second."""

    class First(Energy):
        event_ndim = 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 40.0 * x[..., 0].float()

    def second_or_first(x: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        place = torch.randint(2, (len(x), 1), generator=stream)
        return x.scatter_add(1, place, torch.ones_like(place))

    energy = Linear(torch.zeros(2))
    x = torch.randint(3, 6, (400, 2), generator=generator(1))
    objective = Contrast(second_or_first, beside=First())
    descent = torch.optim.SGD(energy.parameters(), 1.0)
    fit(energy, x, objective, steps=300, batch_size=100, optimizer=descent, generator=generator(0))
    first, second = energy.weight.tolist()
    assert abs(first) < 1e-3
    assert second > 3


def test_of_several_copies_the_most_likely_is_taken() -> None:
    class Total(Energy):
        event_ndim = 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum(-1).float()

    def raised(x: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        by = torch.randint(4, (len(x), 1), generator=stream)
        return x + by.clamp_max(3)

    x = torch.zeros(2_000, 1, dtype=torch.int64)
    _, metrics = Contrast(raised, Total(), 2)(Linear(torch.zeros(1)), x, generator=generator(0))
    # Two draws of 0 to 3: equal copies are passed over, and of others the lower is taken.
    chances = {1: 5 / 16 + 2 / 16, 2: 3 / 16 + 2 / 16, 3: 1 / 16 + 2 / 16}
    expected = sum(by * chance for by, chance in chances.items())
    assert float(metrics["energy_gap"]) == pytest.approx(expected, abs=0.06)
    with pytest.raises(ValueError, match="beside"):
        Contrast(copies=2)


def test_minimal_pairs_differ_in_one_token_of_the_same_kind() -> None:
    texts = ["The dogs walked home.", "A dog walks home.", "The dog is walking the others."]
    tokenizer = Tokenizer.train(200 * texts, 330)
    counts = torch.bincount(torch.cat(tokenizer.encode_all(texts)), minlength=tokenizer.vocabulary)
    pairs = MinimalPairs(tokenizer, ((counts + 1.0) / (counts + 1).sum()).log(), words=2)
    spelled = [tokenizer.spelling(token) for token in range(tokenizer.vocabulary)]
    others = {spelled[i]: {spelled[j] for j in pairs.others[i] if j} for i in range(len(spelled))}
    assert others[" walks"] >= {" walked", " walking"}
    assert others[" dog"] >= {" dogs"}
    assert not others[" dog"] & {" walks", " home"}
    x = padded(50 * tokenizer.encode_all(texts))
    copies = pairs.confused(x, generator(0))
    changed = copies != x
    assert (changed.sum(1) == 1).all()
    for before, after in zip(x[changed].tolist(), copies[changed].tolist(), strict=True):
        assert spelled[after] in others[spelled[before]]
    no_words = padded([tokenizer.encode("...")])
    assert pairs.confused(no_words, generator(0)).equal(no_words)
    assert Strings(x.shape[1], tokenizer.vocabulary, first=3).contains(pairs(x, generator(1))).all()


def test_noise_contrast_finds_what_a_language_model_lacks() -> None:
    """The noise is a language model's own draws: of the residual 0 is right, and it stays there."""
    language = animals()
    causal = language.causal
    draws = causal.sample((300,), generator(0))
    objective, scorer = NCE(Draws(draws), ratio=1), ScorerEnergy(causal.transformer, 8)
    loss, _ = objective(scorer, draws[:100], generator=generator(1))
    assert float(loss.detach()) == pytest.approx(2 * 0.6931, abs=1e-3)


def test_the_hybrid_loss_is_the_mean_of_both_readings() -> None:
    language, x = animals(), padded(animals().tokenizer.encode_all(SENTENCES[:40]))
    loss, metrics = HybridLikelihood(0.5)(language.causal, x, generator=generator(0))
    torch.testing.assert_close(loss, (metrics["causal"] + metrics["masked"]) / 2)
    losses = language.causal.per_token(x[:20])
    torch.testing.assert_close(metrics["causal"], losses.sum() / (string_lengths(x[:20]) + 1).sum())
    alone, _ = HybridLikelihood(1.0)(language.causal, x[:20], generator=generator(0))
    torch.testing.assert_close(alone, metrics["causal"])


def test_shares_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="masked"):
        HybridLikelihood(masked=0.0)


def test_other_energies_are_refused() -> None:
    scorer = ScorerEnergy(animals().causal.transformer)
    with pytest.raises(TypeError, match="CausalEnergy"):
        HybridLikelihood()(scorer, X, generator=generator(0))
    assert not isinstance(scorer, CausalEnergy)


def test_a_training_on_sentences_by_muon_goes_on_bit_for_bit(tmp_path: Path) -> None:
    rows = [torch.arange(3, 3 + n) for n in (1, 2, 5, 8, 4, 4, 3, 6)]

    def train(steps: int, folder: Path, resume: bool = False) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        energy = CausalEnergy(Transformer(20, 8, 1, 2, 8, context=12, dropout=0.1))
        training = fit(
            energy,
            Ragged(rows),
            HybridLikelihood(0.5),
            steps=steps,
            generator=generator(0),
            batch_size=4,
            optimizer=Muon.of(energy),
            ema_decay=0.9,
            folder=folder,
            resume=resume,
        )
        return training.average.state_dict()

    whole = train(7, tmp_path / "whole")
    train(3, tmp_path / "parts")  # in the middle of an epoch's batches
    resumed = train(7, tmp_path / "parts", resume=True)
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())
