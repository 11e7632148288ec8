"""Sentences judged, repaired and drawn, by a small language."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from languages import SENTENCES, animals

from ebrl import sequences, storage
from ebrl.sequences.distance import EditDistance
from ebrl.sequences.language import Language, load, save
from ebrl.sequences.text import SentenceError, alphabet
from ebrl.sequences.tokens import Tokenizer
from ebrl.storage import StorageError


@pytest.fixture(scope="module")
def language() -> Language:
    return animals()


SOUND, BROKEN = "The dog hears the fish.", "The dog hears fish the."


def test_the_parts_of_a_score_spell_the_sentence_and_sum_to_its_energy(language: Language) -> None:
    (score,) = sequences.score([f"  {SOUND} "], language=language)
    assert score.text == SOUND
    assert "".join(part.text for part in score.per_token) == SOUND
    assert sum(part.energy for part in score.per_token) == pytest.approx(score.total, abs=1e-4)
    alone = language.causal(language.tokenizer.encode(SOUND))
    assert score.total == pytest.approx(float(alone), abs=1e-4)


def test_a_score_does_not_depend_on_what_is_scored_beside(language: Language) -> None:
    texts = [SOUND, "The cat.", "The bird likes the mouse. " * 2]
    together = sequences.score(texts, language=language)
    for text, score in zip(texts, together, strict=True):
        (alone,) = sequences.score([text], language=language)
        assert alone.total == pytest.approx(score.total, abs=1e-4)


def test_sound_sentences_rank_first_and_are_more_acceptable(language: Language) -> None:
    first, second = sequences.rank([BROKEN, SOUND], language=language)
    assert (first.text, second.text) == (SOUND, BROKEN)
    assert sequences.acceptability(SOUND, language=language) > 10
    assert sequences.acceptability(BROKEN, language=language) < 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" \n", "empty"),
        ("The \x07cat", "control character"),
        ("The\x1c cat", "control character"),
        ("The\x85cat", "control character"),
        ("Кошка", "letters of the training text"),
        ("The cat " * 40, "at most 30 tokens"),
        ("x" * 30_000, "characters"),
    ],
)
def test_what_is_no_sentence_is_refused(language: Language, text: str, said: str) -> None:
    with pytest.raises(SentenceError, match=said):
        sequences.score([text], language=language)


def test_one_text_in_place_of_a_list_is_refused(language: Language) -> None:
    with pytest.raises(TypeError, match="list"):
        sequences.score(SOUND, language=language)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="list"):
        sequences.with_reference(language, SOUND)
    with pytest.raises(TypeError, match="list"):
        Tokenizer.train(SOUND, 300)


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"The cat", "got bytes: decode it"), (None, "got NoneType"), (["The cat"], "got list: pass")],
)
def test_what_is_no_text_is_refused(language: Language, text: Any, said: str) -> None:
    for judge in (
        lambda: sequences.score([text], language=language),
        lambda: sequences.acceptability(text, language=language),
        lambda: sequences.repair(text, language=language),
        lambda: sequences.complete(text, language=language),
    ):
        with pytest.raises(TypeError, match=said):
            judge()


@pytest.mark.parametrize(
    "broken", ["The dog hears hears the fish.", "The dog hears fish.", "The dog hears a fish."]
)
def test_a_repair_finds_a_sound_sentence_near_by(language: Language, broken: str) -> None:
    found = sequences.repair(broken, language=language, cost=1.0)
    assert found.text in SENTENCES
    assert found.edits <= 2  # "a" is a token, " a" two
    assert found.energy < found.original_energy


def test_a_sound_sentence_stays_as_it_is(language: Language) -> None:
    found = sequences.repair(SOUND, language=language, cost=4.0)
    assert (found.text, found.edits) == (SOUND, 0)


def test_the_same_seed_repairs_alike(language: Language) -> None:
    one, other = (sequences.repair(BROKEN, language=language, seed=3) for _ in range(2))
    assert one == other


def test_numbers_out_of_range_are_refused(language: Language) -> None:
    for cost in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="0 <= cost < inf"):
            sequences.repair(SOUND, language=language, cost=cost)
    with pytest.raises(ValueError, match="temperature"):
        sequences.repair(SOUND, language=language, temperature=0.0)
    with pytest.raises(ValueError, match="n >= 1"):
        sequences.sample(0, language=language)
    with pytest.raises(ValueError, match="candidates"):
        sequences.complete(SOUND, 40, language=language)


def test_draws_are_mostly_sentences_of_the_language(language: Language) -> None:
    drawn = sequences.sample(20, language=language, seed=1, candidates=4, steps=8)
    assert sum(text in SENTENCES for text in drawn) >= 14
    assert drawn == sequences.sample(20, language=language, seed=1, candidates=4, steps=8)


def test_completions_begin_with_the_prefix(language: Language) -> None:
    found = sequences.complete("The mouse", 2, language=language)
    assert all(text.startswith("The mouse") for text in found)
    assert found[0] in SENTENCES


def test_a_language_comes_back_from_its_file(language: Language, tmp_path: Path) -> None:
    path = tmp_path / "animals.safetensors"
    save(language, path)
    again = load(path)
    assert again.card == language.card
    texts = SENTENCES[:40]
    before, after = (
        torch.tensor([score.total for score in sequences.score(texts, language=each)])
        for each in (language, again)
    )
    # 8 bits: a thousandth of a matrix's largest number.
    torch.testing.assert_close(after, before, atol=0.1, rtol=0.02)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    storage.save(path, {"weight": torch.zeros(2)}, {"kind": "energy"})
    with pytest.raises(StorageError, match="language"):
        load(path)
    storage.save(path, {"weight": torch.zeros(2)}, {"kind": "language"})
    with pytest.raises(StorageError, match="it lacks 'sizes'"):
        load(path)
    path.write_bytes(b"no safetensors at all")
    with pytest.raises(StorageError):
        load(path)


@pytest.mark.parametrize("text", ["The cat’s dog — é.", "The 🙂 cat sees the “dog”."])
def test_characters_of_several_tokens_are_spelled_once(language: Language, text: str) -> None:
    (score,) = sequences.score([text], language=language)
    assert len(score.per_token) > len(set(text)) // 2
    assert "".join(part.text for part in score.per_token) == text
    page = sequences.html([score])
    assert page.count("&#9632;") == 1
    assert page.rindex("</span>") > page.index("&#9632;")


def test_a_token_across_the_edge_of_a_character_is_spelled_once(language: Language) -> None:
    texts = ["今天天气很好。", "我们今天去公园。", "😀😃 😄", "हिन्दी में"]
    tokenizer = Tokenizer.train(texts * 50, 290)
    other = language._replace(tokenizer=tokenizer, alphabet=alphabet(texts * 50))
    across = False
    for text in ["今天我们去。", "天好去今😄😀 में"]:
        places = [(piece.start, piece.end) for piece in tokenizer.pieces(text)]
        across |= any(a[1] > b[0] > a[0] for a, b in pairwise(places))
        (score,) = sequences.score([text], language=other)
        assert "".join(part.text for part in score.per_token) == text
    assert across


def test_a_language_without_held_out_sentences_is_refused(language: Language) -> None:
    with pytest.raises(ValueError, match="at most 30 tokens to compare with, got none"):
        sequences.with_reference(language, [])


def test_a_tokenizer_of_another_vocabulary_is_refused(language: Language, tmp_path: Path) -> None:
    other = language._replace(tokenizer=Tokenizer.train(SENTENCES, 290))
    save(other, tmp_path / "other.safetensors")
    with pytest.raises(StorageError, match="of one vocabulary, got 290 and 300 tokens"):
        load(tmp_path / "other.safetensors")


def test_completions_keep_the_last_word_whole(language: Language) -> None:
    for text in sequences.complete("The do", 4, language=language, temperature=2.0):
        assert not text.startswith("The dog")


def test_a_page_escapes_what_a_sentence_holds(language: Language) -> None:
    page = sequences.html(sequences.score(["The <b>cat</b> sees the dog."], language=language))
    assert "<b>" not in page
    assert "&lt;" in page


@pytest.mark.parametrize(
    ("x", "distance"),
    [("abc", 0), ("abd", 1), ("ab", 1), ("abcd", 1), ("bc", 1), ("cab", 2), ("", 3), ("xyzw", 4)],
)
def test_the_distance_is_the_fewest_edits(x: str, distance: int) -> None:
    original = torch.tensor([ord(c) for c in "abc"])
    row = torch.tensor([ord(c) for c in x] + [0] * (6 - len(x)))
    assert EditDistance(original)(row.unsqueeze(0)).tolist() == [distance]
