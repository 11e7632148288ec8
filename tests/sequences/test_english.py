"""The English language that ships."""

from __future__ import annotations

import pytest

from ebrl import sequences
from ebrl.sequences.language import english


def test_its_card_says_where_it_comes_from() -> None:
    card = english().card
    assert {"data", "licence of the data", "steps", "training", "command"} <= card.keys()
    assert card["valid nats a token"] > 0


@pytest.mark.parametrize(
    ("sound", "broken"),
    [
        ("The president said that he would go.", "The president said he that would go."),
        ("It was one of the best films of the year.", "It was one of best the films of the year."),
        ("The government will help the farmers.", "The government will helps the the farmers."),
    ],
)
def test_it_tells_sound_from_broken(sound: str, broken: str) -> None:
    assert [each.text for each in sequences.rank([broken, sound])] == [sound, broken]
    one, other = sequences.score([sound, broken])
    assert one.total < other.total
    assert sequences.acceptability(sound) > sequences.acceptability(broken)


def test_every_energy_of_it_is_finite() -> None:
    for energy in english().energies.values():
        (score,) = sequences.score(["The cat sat on the mat."], energy=energy)
        assert abs(score.total) < 1e3


def test_repairs_and_samples_leave_characters_whole() -> None:
    """The tokens of a typographic quote are bytes of it."""
    broken = "It’s one of of the best — “really” — films."
    found = sequences.repair(broken, chains=6, steps=48)
    assert "\ufffd" not in found.text
    (score,) = sequences.score([found.text], energy=english().coherence)
    assert found.energy == pytest.approx(score.total, abs=1e-3)
    assert not any("\ufffd" in text for text in sequences.sample(2, steps=8))
