"""A language that is small enough for tests: trained on a few made-up sentences for seconds."""

from __future__ import annotations

from functools import cache

import torch

from ebrl.sequences.energies import CausalEnergy
from ebrl.sequences.judging import with_reference
from ebrl.sequences.language import Language
from ebrl.sequences.objectives import HybridLikelihood
from ebrl.sequences.text import alphabet
from ebrl.sequences.tokens import Tokenizer
from ebrl.sequences.transformer import Transformer
from ebrl.training import fit
from ebrl.training.muon import Muon
from ebrl.training.ragged import Ragged

ANIMALS = ["cat", "dog", "horse", "bird", "fish", "mouse"]
VERBS = ["sees", "likes", "hears", "follows"]
SENTENCES = [
    f"The {one} {verb} the {other}." for one in ANIMALS for verb in VERBS for other in ANIMALS
]


@cache
def animals() -> Language:
    """Return a language whose every sentence is `The ANIMAL VERB the ANIMAL.`"""
    tokenizer = Tokenizer.train(SENTENCES, 300)
    data = Ragged(tokenizer.encode_all(SENTENCES))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        energy = CausalEnergy(Transformer(300, 32, 2, 2, 32, context=32))
        fit(
            energy,
            data,
            HybridLikelihood(0.5),
            steps=150,
            batch_size=32,
            optimizer=Muon.of(energy, 0.02),
            generator=torch.Generator().manual_seed(0),
        )
    counts = torch.bincount(data.flat, minlength=300) + 1.0
    energy.eval().requires_grad_(False)
    language = Language(
        tokenizer,
        energy,
        scorers={},
        shares={"causal": 1.0},
        log_frequencies=(counts / counts.sum()).log(),
        balance=1.0,
        fluency=torch.empty(0),
        alphabet=alphabet(SENTENCES),
        card={"sentences": len(SENTENCES)},
    )
    return with_reference(language, SENTENCES[::7])
