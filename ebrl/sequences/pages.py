"""Sentences coloured by their energy, as a page of HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ebrl.sequences.judging import Score, TokenEnergy

WORST = 12.0  # nats of a token that is as red as it gets

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Sentences by their energy</title>
<style>
body {{ font: 18px/2 Georgia, serif; max-width: 50em; margin: 2em auto; color: #222 }}
.total {{ font: 13px monospace; color: #777; margin-right: 1em }}
span[title] {{ border-radius: 3px; padding: 2px 0 }}
</style>
{sentences}
</html>
"""


def html(scores: Sequence[Score]) -> str:
    """Return a page with each sentence, its tokens the redder the higher their energy."""
    return PAGE.format(sentences="\n".join(map(_sentence, scores)))


def redness(part: TokenEnergy) -> float:
    """Return how unlikely a token is, from 0 to 1."""
    return min(max(part.energy / WORST, 0.0), 1.0)


def _sentence(score: Score) -> str:
    *parts, end = score.per_token
    spelled = [*(escape(part.text) for part in parts), "&#9632;"]  # a mark at the end
    tokens = "".join(map(_token, spelled, [*parts, end]))
    return f'<p><span class="total">{score.total:.1f}</span>{tokens}</p>'


def _token(spelled: str, part: TokenEnergy) -> str:
    colour = f"rgba(214, 60, 40, {redness(part):.2f})"
    return f'<span title="{part.energy:.2f} nats" style="background: {colour}">{spelled}</span>'
