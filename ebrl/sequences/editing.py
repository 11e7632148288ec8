"""Repair: the fewest edits of a sentence that lower its energy, by chains of edits."""

from __future__ import annotations

from contextlib import suppress
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Energy
from ebrl.energies.evaluating import evaluating
from ebrl.kernels import Edits
from ebrl.sampling import Sampler
from ebrl.sampling.paths import temperature_path
from ebrl.sequences.distance import EditDistance
from ebrl.sequences.filling import MaskedFilling
from ebrl.sequences.judging import as_sentence
from ebrl.sequences.language import Language, english
from ebrl.sequences.text import SentenceError
from ebrl.sequences.tokens import PAD, REPLACEMENT, SPECIAL, padded
from ebrl.spaces import Strings

MORE = 4  # tokens that a repair may add
RUNGS = 8  # of the ladder of temperatures
HOTTEST = 0.5  # of them: hotter chains wander off, and need more steps to come back


class Repair(NamedTuple):
    """A sentence after its repair."""

    text: str
    original: str
    edits: int  # of tokens
    energy: float  # nats
    original_energy: float


def repair(
    text: str,
    *,
    language: Language | None = None,
    energy: Energy | None = None,
    cost: float = 6.0,
    temperature: float = 0.3,
    chains: int = 16,
    steps: int = 64,
    seed: int = 0,
) -> Repair:
    """Return the sentence of least `energy + cost * edits` that chains of edits find.

    As in denoising, a prior meets an observation: the language says which sentences are likely, the
    number of edits how far they are from the text. Metropolis chains substitute, insert and delete
    tokens, with new tokens drawn from what the language expects there, while they cool.

    Args:
        text: A sentence.
        language: By default the English one that comes with the package.
        energy: By default the language's `coherence`, so that shorter sentences are no better.
        cost: Nats for each edit of a token: higher repairs less.
        temperature: Temperature at which the chains end.
        chains: Independent searches.
        steps: Edits that each chain tries, at least 8.
        seed: Seed of all random numbers.

    Raises:
        SentenceError: As `score`.
        ValueError: If a number is out of range.
    """
    if chains < 1 or steps < RUNGS or not (0 <= cost < inf and 0 < temperature <= 1):
        raise ValueError(
            f"expected chains >= 1, steps >= {RUNGS}, 0 <= cost < inf and 0 < temperature <= 1, "
            f"got {chains=}, {steps=}, {cost=}, {temperature=}"
        )
    language = language or english()
    energy = energy or language.coherence
    sentence = as_sentence(text, language)
    tokens = language.tokenizer.encode(sentence)
    found = search(language, energy, tokens, cost, temperature, chains, steps, seed)
    with evaluating(energy), torch.no_grad():
        both = energy(padded([found, tokens])).tolist()
    edits = int(EditDistance(tokens)(found))
    return Repair(language.tokenizer.decode(found), sentence, edits, *both)


def search(
    language: Language,
    energy: Energy,
    tokens: Tensor,
    cost: float,
    temperature: float,
    chains: int,
    steps: int,
    seed: int,
) -> Tensor:
    """Return the tokens of the best sentence among the original and the ends of the chains."""
    longest = min(len(tokens) + MORE, language.causal.longest)
    space = Strings(longest, language.tokenizer.vocabulary, first=len(SPECIAL))
    filling = MaskedFilling(language.causal.transformer, allowed=language.tokenizer.whole())
    kernel = Edits(space, filling, substitutions=0.6)
    sampler = Sampler(kernel, space, steps=steps)
    target = energy + cost * EditDistance(tokens)
    ladder = torch.linspace(max(HOTTEST, temperature), temperature, RUNGS)
    path = temperature_path(target, ladder, steps=steps // RUNGS, step_size=1.0)
    path[-1] = path[-1]._replace(steps=path[-1].steps + steps % RUNGS)
    start = padded([tokens] * chains, longest)
    end = sampler.anneal(path, start, generator=torch.Generator().manual_seed(seed))
    read = padded([tokens, *read_again(end.x, tokens, language)])
    with evaluating(target), torch.no_grad():
        best = read[target(read).argmin()]
    return best[best != PAD]


def read_again(ends: Tensor, tokens: Tensor, language: Language) -> list[Tensor]:
    """Return the ends of the chains, decoded and encoded again, without those that are no text.

    Edits may spell a text in other tokens, and an insertion may split a character.
    """
    decode = language.tokenizer.decode
    broken = decode(tokens).count(REPLACEMENT)  # in the text itself
    found = []
    for text in sorted({decode(end) for end in ends}):
        with suppress(SentenceError):
            if text.count(REPLACEMENT) <= broken:
                found.append(language.tokenizer.encode(as_sentence(text, language)))
    return found
