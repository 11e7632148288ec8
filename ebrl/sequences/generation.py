"""New sentences: language-model draws, resampled and edited under an energy."""

from __future__ import annotations

import torch

from ebrl.energies import Energy
from ebrl.energies.evaluating import evaluating
from ebrl.kernels import Edits
from ebrl.sampling import Sampler, importance_resampling
from ebrl.sequences.filling import MaskedFilling
from ebrl.sequences.judging import as_sentence
from ebrl.sequences.language import Language, english
from ebrl.sequences.tokens import SPECIAL
from ebrl.spaces import Strings


def sample(
    n: int = 1,
    *,
    language: Language | None = None,
    energy: Energy | None = None,
    candidates: int = 8,
    steps: int = 32,
    seed: int = 0,
) -> list[str]:
    """Draw sentences of an energy.

    Each starts as one of several candidates of the language model, chosen by importance resampling,
    and then makes `steps` Metropolis-Hastings substitutions, which leave the energy's distribution
    invariant.

    Args:
        n: Number of sentences.
        language: By default the English one that comes with the package.
        energy: By default the language's own.
        candidates: Draws of the language model for each sentence, at least 2.
        steps: Substitutions that the chain of each sentence tries.
        seed: Seed of all random numbers.

    Raises:
        ValueError: If a number is out of range.
    """
    if n < 1:
        raise ValueError(f"expected n >= 1, got {n}")
    language = language or english()
    energy = energy or language.energy
    generator = torch.Generator().manual_seed(seed)
    space = Strings(
        language.causal.longest, language.tokenizer.vocabulary, first=len(SPECIAL), shortest=0
    )
    drawn = importance_resampling(
        energy, language.causal, (n,), generator=generator, candidates=candidates, space=space
    )
    filling = MaskedFilling(language.causal.transformer, allowed=language.tokenizer.whole())
    sampler = Sampler(Edits(space, filling, substitutions=1.0), space, steps=steps)
    x = sampler.sample(energy, drawn.x, generator=generator).x
    return [language.tokenizer.decode(row) for row in x]


@torch.no_grad()
def complete(
    prefix: str,
    n: int = 1,
    *,
    language: Language | None = None,
    energy: Energy | None = None,
    candidates: int = 32,
    temperature: float = 0.8,
    seed: int = 0,
) -> list[str]:
    """Return the completions of least energy among the language model's candidates.

    Args:
        prefix: How the sentences begin; the last word is whole.
        n: Number of sentences, at most `candidates`; fewer if fewer candidates are distinct.
        language: By default the English one that comes with the package.
        energy: By default the language's own.
        candidates: Draws of the language model.
        temperature: Temperature at which each token is drawn.
        seed: Seed of all random numbers.

    Raises:
        SentenceError: As `score`.
        ValueError: If a number is out of range.
    """
    if not 1 <= n <= candidates or not temperature > 0:
        raise ValueError(
            f"expected 1 <= n <= candidates and temperature > 0, got {n=}, {candidates=}, "
            f"{temperature=}"
        )
    language = language or english()
    energy = energy or language.energy
    tokens = language.tokenizer.encode(as_sentence(prefix, language))
    generator = torch.Generator().manual_seed(seed)
    with evaluating(energy, language.causal):
        x = language.causal.sample(
            (candidates,),
            generator,
            prefix=tokens,
            after_prefix=language.tokenizer.after_a_word(),
            temperature=temperature,
        ).unique(dim=0)
        best = energy(x).argsort()[:n]
    return [language.tokenizer.decode(row) for row in x[best]]
