"""Tokens: every text has them, and they spell it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from languages import SENTENCES

from ebrl.sequences.tokens import MASK, PAD, SPECIAL, Tokenizer, normalise, padded

TOKENIZER = Tokenizer.train(SENTENCES, 300)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40))
@settings(deadline=None)
def test_tokens_spell_their_text(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == normalise(text)


def test_pieces_cover_the_text() -> None:
    text = "The cat sees the naïve Pferd."
    pieces = TOKENIZER.pieces(text)
    assert pieces[0].start == 0
    assert pieces[-1].end == len(text)
    assert [piece.token for piece in pieces] == TOKENIZER.encode(text).tolist()


def test_a_text_that_spells_a_special_token_is_a_text() -> None:
    for special in SPECIAL:
        tokens = TOKENIZER.encode(f"The {special} cat")
        assert (tokens >= len(SPECIAL)).all()


def test_all_that_it_knows_is_in_its_json() -> None:
    again = Tokenizer(TOKENIZER.to_json())
    assert again.encode("The <pad> dog.").equal(TOKENIZER.encode("The <pad> dog."))
    assert again.vocabulary == TOKENIZER.vocabulary


def test_frequent_words_are_one_token() -> None:
    assert len(TOKENIZER.encode("The cat")) == 2


def test_a_foreign_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a tokenizer"):
        Tokenizer("{}")
    from tokenizers import Tokenizer as Encoder
    from tokenizers import models

    foreign = Encoder(models.BPE())
    foreign.add_tokens(["a", "b", "c"])
    with pytest.raises(ValueError, match="first tokens"):
        Tokenizer(foreign.to_str())


def test_a_vocabulary_below_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 259"):
        Tokenizer.train(SENTENCES, 100)


def test_rows_are_padded_at_their_end() -> None:
    rows = [TOKENIZER.encode("The cat"), TOKENIZER.encode("The")]
    x = padded(rows, 4)
    assert x.shape == (2, 4)
    assert (x[1, 1:] == PAD).all()
    assert MASK not in x
