"""Sentences on the core: score, rank, repair, sample.

    from ebrl import sequences

    sequences.score(["The cat sat on the mat."])[0].total  # nats, low where likely
    sequences.repair("The cat sat in on mat.").text

Needs the extra `sequences`: pip install 'ebrl[sequences]'.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebrl.sequences.distance import EditDistance as EditDistance
    from ebrl.sequences.editing import repair as repair
    from ebrl.sequences.energies import CausalEnergy as CausalEnergy
    from ebrl.sequences.energies import MaskedEnergy as MaskedEnergy
    from ebrl.sequences.energies import OneHot as OneHot
    from ebrl.sequences.energies import ScorerEnergy as ScorerEnergy
    from ebrl.sequences.filling import MaskedFilling as MaskedFilling
    from ebrl.sequences.generation import complete as complete
    from ebrl.sequences.generation import sample as sample
    from ebrl.sequences.judging import acceptability as acceptability
    from ebrl.sequences.judging import rank as rank
    from ebrl.sequences.judging import score as score
    from ebrl.sequences.judging import with_reference as with_reference
    from ebrl.sequences.language import Language as Language
    from ebrl.sequences.language import english as english
    from ebrl.sequences.language import load as load
    from ebrl.sequences.language import save as save
    from ebrl.sequences.language import tokenizer as tokenizer
    from ebrl.sequences.language import trainable as trainable
    from ebrl.sequences.objectives import Contrast as Contrast
    from ebrl.sequences.objectives import HybridLikelihood as HybridLikelihood
    from ebrl.sequences.pages import html as html
    from ebrl.sequences.text import Text as Text
    from ebrl.sequences.tokens import Tokenizer as Tokenizer
    from ebrl.sequences.transformer import Transformer as Transformer

_HOMES = {
    "CausalEnergy": "energies",
    "Contrast": "objectives",
    "EditDistance": "distance",
    "HybridLikelihood": "objectives",
    "Language": "language",
    "MaskedEnergy": "energies",
    "MaskedFilling": "filling",
    "OneHot": "energies",
    "ScorerEnergy": "energies",
    "Text": "text",
    "Tokenizer": "tokens",
    "Transformer": "transformer",
    "acceptability": "judging",
    "complete": "generation",
    "english": "language",
    "html": "pages",
    "load": "language",
    "rank": "judging",
    "repair": "editing",
    "sample": "generation",
    "save": "language",
    "score": "judging",
    "tokenizer": "language",
    "trainable": "language",
    "with_reference": "judging",
}
__all__ = list(_HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ebrl.sequences' has no attribute {name!r}")
    try:
        return getattr(import_module(f"ebrl.sequences.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "tokenizers":
            raise
        raise ModuleNotFoundError(
            f"ebrl.sequences.{name} needs tokenizers: pip install 'ebrl[sequences]'",
            name=error.name,
        ) from error
