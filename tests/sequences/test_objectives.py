"""How energies of sentences are trained: corruption, contrast, and noise contrast."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from languages import SENTENCES, animals
from problems import generator

from ebrl.energies import Energy, FunctionEnergy
from ebrl.objectives import NCE
from ebrl.sequences.corruption import corrupted, moved, replaced, shortened, swapped
from ebrl.sequences.energies import CausalEnergy, ScorerEnergy
from ebrl.sequences.objectives import Contrast, Draws, HybridLikelihood
from ebrl.sequences.tokens import PAD, padded
from ebrl.sequences.transformer import Transformer
from ebrl.spaces import Strings, string_lengths
from ebrl.training import check_fit, fit
from ebrl.training.muon import Muon
from ebrl.training.ragged import Ragged

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


class Table(Energy):
    """A number for each first token."""

    event_ndim = 1

    def __init__(self, values: torch.Tensor):
        super().__init__()
        self.values = torch.nn.Parameter(values)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.values[x[..., 0]]


@pytest.mark.parametrize(
    ("pairs", "densities"),
    [  # how often each pair of a sentence and its copy occurs, and exp(-E) at the optimum
        ({(0, 1): 3, (0, 2): 3, (1, 0): 2, (1, 2): 2, (2, 0): 1, (2, 1): 1}, [3, 2, 1]),
        ({(0, 0): 3, (0, 1): 1, (1, 0): 2}, [1, 2]),
    ],
    ids=["symmetric", "asymmetric"],
)
def test_contrast_is_least_at_the_energy_that_its_description_names(
    pairs: dict[tuple[int, int], int], densities: list[float]
) -> None:
    rows = torch.tensor([pair for pair, count in pairs.items() for _ in range(count)])
    real, copies = (column.unsqueeze(1) for column in rows.unbind(1))
    table = Table(torch.zeros(3))
    optimizer = torch.optim.LBFGS(table.parameters(), max_iter=100, tolerance_grad=1e-9)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = Contrast(lambda x, _: copies)(table, real, generator=generator(0)).loss
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = torch.tensor(densities).log()
    found = -table.values.detach()[: len(expected)]
    torch.testing.assert_close(found - found[0], expected - expected[0], atol=1e-3, rtol=0)


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


def test_small_batches_train_both_readings() -> None:
    x, energy = X[:2], CausalEnergy(Transformer(20, 16, 1, 2, 16, context=12))
    metrics = HybridLikelihood(0.75)(energy, x, generator=generator()).metrics
    assert metrics.keys() == {"causal", "masked"}
    with pytest.raises(ValueError, match="batches of at least 2 sentences"):
        HybridLikelihood(0.75)(energy, x[:1], generator=generator())


def test_shares_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="masked"):
        HybridLikelihood(masked=0.0)


def test_other_energies_are_refused() -> None:
    scorer = ScorerEnergy(animals().causal.transformer)
    with pytest.raises(TypeError, match="CausalEnergy"):
        HybridLikelihood()(scorer, X, generator=generator(0))
    assert not isinstance(scorer, CausalEnergy)


def test_a_condition_of_a_language_model_is_refused() -> None:
    with pytest.raises(TypeError, match="expected no condition"):
        HybridLikelihood()(animals().causal, X, torch.ones(len(X)), generator=generator(0))


class WeightedLength(Energy):
    """The condition times the number of tokens."""

    event_ndim = 1
    takes_condition = True

    def given(self, condition: torch.Tensor) -> Energy:
        return condition * FunctionEnergy(lambda x: string_lengths(x).float())


@pytest.mark.parametrize("batch", [2, 4])
def test_contrast_gives_a_sentence_and_its_copy_the_same_condition(batch: int) -> None:
    def without_last(x: torch.Tensor, _: torch.Generator) -> torch.Tensor:
        return x.scatter(1, string_lengths(x).unsqueeze(1) - 1, PAD)

    condition = torch.arange(1.0, 1 + batch)
    objective = Contrast(without_last)
    loss, metrics = objective(WeightedLength(), X[:batch], condition, generator=generator(0))
    assert float(metrics["energy_gap"]) == pytest.approx(-float(condition.mean()))
    torch.testing.assert_close(loss, F.softplus(condition).mean())


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


@pytest.mark.parametrize(
    ("row", "said"),
    [(torch.tensor([20, 4]), "tokens from 0 to 19, got"), (torch.full((13,), 5), "at most 10 tok")],
)
def test_the_row_that_no_model_reads_is_found_before_the_training(
    row: torch.Tensor, said: str
) -> None:
    energy = CausalEnergy(Transformer(20, 8, 1, 2, 8, context=12))
    rows = [*[torch.arange(3, 9)] * 50, row, *[torch.arange(3, 9)] * 50]
    with pytest.raises(ValueError, match=said):
        check_fit(energy, Ragged(rows), 4, HybridLikelihood())


def test_a_batch_with_no_token_masked_has_a_loss() -> None:
    energy = CausalEnergy(Transformer(20, 8, 1, 2, 8, context=12))
    for seed in range(20):  # of one token each, which is masked in a quarter of them
        x = torch.tensor([[7]] * 4)
        assert HybridLikelihood()(energy, x, generator=generator(seed)).loss.isfinite()
