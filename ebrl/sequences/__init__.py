"""Sentences on the core: score, rank, repair, sample.

    from ebrl import sequences

    sequences.score(["The cat sat on the mat."])[0].total  # nats, low where likely
    sequences.repair("The cat sat in on mat.").text

Needs the extra `sequences`: pip install 'ebrl[sequences]'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebrl.lazy import attach

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

_NAMES = {
    "distance": "EditDistance",
    "editing": "repair",
    "energies": "CausalEnergy MaskedEnergy OneHot ScorerEnergy",
    "filling": "MaskedFilling",
    "generation": "complete sample",
    "judging": "acceptability rank score with_reference",
    "language": "Language english load save tokenizer trainable",
    "objectives": "Contrast HybridLikelihood",
    "pages": "html",
    "text": "Text",
    "tokens": "Tokenizer",
    "transformer": "Transformer",
}
__all__, __getattr__, __dir__ = attach(
    __name__, _NAMES, extra="sequences", requires=("tokenizers",)
)
