"""Sentences judged: their energies, token by token, their order, and a scale that people read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Energy
from ebrl.energies.evaluating import evaluating
from ebrl.sequences.energies import token_parts
from ebrl.sequences.language import Language, english
from ebrl.sequences.text import LONGEST_LINE, SentenceError, check_letters, check_printable
from ebrl.sequences.tokens import check_several, normalise, padded

TOKENS_AT_ONCE = 8192


class TokenEnergy(NamedTuple):
    """A token of a sentence and its part of the energy."""

    text: str  # '' for the end, and for bytes of a character that was spelled before
    energy: float  # nats


class Score(NamedTuple):
    """A sentence and its energy, low where it is likely."""

    text: str  # with single spaces
    total: float  # nats
    per_token: tuple[TokenEnergy, ...]  # texts join to the text, energies sum to the total


def score(
    texts: Sequence[str], *, language: Language | None = None, energy: Energy | None = None
) -> list[Score]:
    """Return the energy of each sentence, with the part of each token.

    Args:
        texts: Sentences.
        language: By default the English one that comes with the package.
        energy: A weighted sum of the language's energies; by default the causal one, -log p.

    Raises:
        SentenceError: If a text is empty, too long, or not of the language's letters.
        TypeError: If `texts` is a single string, or one of them no string.
    """
    check_several(texts)
    language = language or english()
    sentences = [as_sentence(text, language) for text in texts]
    pieces = [language.tokenizer.pieces(text) for text in sentences]
    rows = [torch.tensor([piece.token for piece in each]) for each in pieces]
    parts = parts_of_rows(energy or language.causal, rows)
    scores = []
    for text, each, values in zip(sentences, pieces, parts, strict=True):
        # A token may end within a character, which is then spelled by the first that reaches it.
        ends = [0, *accumulate((piece.end for piece in each), max)]
        spelled = [text[start:end] for start, end in pairwise(ends)]
        found = tuple(map(TokenEnergy, [*spelled, ""], values.tolist()))
        scores.append(Score(text, float(values.sum()), found))
    return scores


def rank(
    texts: Sequence[str], *, language: Language | None = None, energy: Energy | None = None
) -> list[Score]:
    """Return the scores of the texts, the most likely first.

    By default the energy is the language's weighted sum of several, with weights chosen on its
    validation data. Other arguments and errors are those of `score`.
    """
    language = language or english()
    energy = energy or language.energy
    return sorted(score(texts, language=language, energy=energy), key=lambda each: each.total)


def acceptability(text: str, *, language: Language | None = None) -> float:
    """Return how acceptable a sentence is, from 0 to 100.

    The number is the percentage of reference sentences that are less fluent (`fluency`); 50 is
    their median. For the English that ships, these are held-out sentences from news, reviews and
    speeches, for a language of `ebrl fit` sentences of its training. Compare only sentences of
    similar length and register. Short everyday ones score low, because their few words say little
    about each other.

    Raises:
        TypeError: For anything but one text.
        SentenceError: As `score`.
        ValueError: If the language has no sentences to compare with.
    """
    language = language or english()
    if not len(language.fluency):
        raise ValueError(
            "expected a language with sentences to compare with, got one without: "
            "ebrl.sequences.with_reference(language, texts) adds them"
        )
    row = language.tokenizer.encode(as_sentence(text, language))
    return float(percentages(language, [row]))


def percentages(language: Language, rows: Sequence[Tensor]) -> Tensor:
    """Return `acceptability` of each row of tokens, `(rows,)`."""
    below = torch.searchsorted(language.fluency, fluency(language, rows))
    return 100 * below / len(language.fluency)


def with_reference(language: Language, texts: Sequence[str]) -> Language:
    """Return the language with other sentences, such as held-out ones, for `acceptability`.

    Raises `ValueError` if none of them is short enough, and `TypeError` for a single string.
    """
    rows = [row.long() for row in language.tokenizer.encode_all(texts)]
    return with_rows(language, [row for row in rows if 0 < len(row) <= language.causal.longest])


def with_rows(language: Language, rows: Sequence[Tensor]) -> Language:
    """As `with_reference`, from token rows `(length,)`."""
    if not len(rows):
        raise ValueError(
            f"expected sentences of at most {language.causal.longest} tokens to compare with, got "
            "none"
        )
    total, alone = (
        sum(float(part.sum()) for part in parts_of_rows(energy, rows))
        for energy in (language.causal, language.frequency)
    )
    quantiles = fluency(language, rows).quantile(torch.linspace(0, 1, 201))
    return language._replace(balance=total / alone, fluency=quantiles)


def fluency(language: Language, rows: Sequence[Tensor]) -> Tensor:
    """Return the syntactic log-odds ratio of each row of tokens, `(rows,)`.

    This is the log probability less that of the tokens drawn independently, per token (Pauls and
    Klein 2012; Lau et al. 2017): neither length nor rare words count against a sentence.
    """
    parts = parts_of_rows(language.frequency - language.causal, rows)
    return torch.stack([each.sum() for each in parts]) / torch.tensor([len(row) for row in rows])


@torch.no_grad()
def parts_of_rows(energy: Energy, rows: Sequence[Tensor]) -> list[Tensor]:
    """Return the parts of the tokens and the end of each row, `(length + 1,)`.

    Rows of a similar length are computed together.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    parts: dict[int, Tensor] = {}
    with evaluating(energy):
        while order:
            count = max(1, TOKENS_AT_ONCE // (len(rows[order[-1]]) + 1))
            batch, order = order[-count:], order[:-count]
            values = token_parts(energy, padded([rows[i] for i in batch]))
            parts |= {i: row[: len(rows[i]) + 1] for i, row in zip(batch, values, strict=True)}
    return [parts[i] for i in range(len(rows))]


def as_sentence(text: str, language: Language) -> str:
    """Return a text with single spaces if the language can judge it.

    Raises:
        SentenceError: If it is empty, holds control characters, is longer than the model reads, or
            most of its letters are of a script that the model was not trained on.
        TypeError: If it is no string.
    """
    if not isinstance(text, str):
        cure = "decode it" if isinstance(text, bytes) else "pass one str"
        raise TypeError(f"expected a text, got {type(text).__name__}: {cure}")
    if len(text) > LONGEST_LINE:
        raise SentenceError(
            f"expected a sentence, got {len(text):,} characters: put one sentence on a line"
        )
    check_printable(text)
    sentence = normalise(text)
    if not sentence:
        raise SentenceError("expected a sentence, got an empty text")
    check_letters(sentence, language.alphabet)
    length = len(language.tokenizer.encode(sentence))
    if length > language.causal.longest:
        raise SentenceError(
            f"expected at most {language.causal.longest} tokens, got {length}: split the text into "
            "sentences"
        )
    return sentence
