"""A language as one file: tokenizer, transformer, what was learnt beside it, and a card.

Matrices are stored in 8 bits with a scale for each row, all else in half precision.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebrl import storage
from ebrl.energies import Energy
from ebrl.sequences.energies import (
    CausalEnergy,
    FrequencyEnergy,
    MaskedEnergy,
    ScorerEnergy,
    SentenceEnergy,
)
from ebrl.sequences.tokens import Tokenizer
from ebrl.sequences.transformer import Transformer
from ebrl.storage import StorageError

WEIGHTS = Path(__file__).parent / "weights"
ENGLISH = WEIGHTS / "english.safetensors"
KIND = "language"
SCALE = ".scale"


class Language(NamedTuple):
    """All that judges sentences of one language."""

    tokenizer: Tokenizer
    causal: CausalEnergy
    scorers: dict[str, ScorerEnergy]  # "contrastive" and "residual", where they were trained
    shares: dict[str, float]  # of each energy in `energy`, chosen on validation data
    log_frequencies: Tensor  # (vocabulary,), of single tokens in the training text
    balance: float  # causal energy of typical sentences over their `frequency`
    fluency: Tensor  # ascending quantiles of `judging.fluency` of reference sentences, or empty
    alphabet: str  # the letters of the training text
    card: dict[str, Any]  # data, steps, time, figures, command

    @property
    def masked(self) -> MaskedEnergy:
        """The pseudo-likelihood by the same transformer."""
        return MaskedEnergy(self.causal.transformer)

    @property
    def frequency(self) -> FrequencyEnergy:
        """Each token alone."""
        return FrequencyEnergy(self.log_frequencies)

    @property
    def coherence(self) -> Energy:
        """The causal energy less that of typical sentences with equally rare tokens: 0 on average.

        It does not grow with the length, and a rare word costs nothing. The scorers are left out:
        they rank given sentences well, but a search for their minimum ends in nonsense.
        """
        return self.causal - self.balance * self.frequency

    @property
    def energies(self) -> dict[str, SentenceEnergy]:
        """Every energy by its name."""
        return {
            "causal": self.causal,
            "masked": self.masked,
            "frequency": self.frequency,
            **self.scorers,
        }

    @property
    def energy(self) -> Energy:
        """The energy that ranks by default: the weighted sum that `shares` name."""
        (first, share), *rest = self.shares.items()
        total: Energy = self.energies[first] if share == 1 else share * self.energies[first]
        for name, share in rest:
            total = total + share * self.energies[name]
        return total


def save(language: Language, path: str | Path) -> None:
    """Write a language to one safetensors file, with its card."""
    tensors = {f"transformer.{k}": v for k, v in language.causal.transformer.state_dict().items()}
    for name, scorer in language.scorers.items():
        tensors |= {f"{name}.{k}": v for k, v in scorer.head.state_dict().items()}
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stored |= quantized(name, tensor)
    stored["log_frequencies"] = language.log_frequencies.half()
    stored["fluency"] = language.fluency.half()
    facts = {
        "kind": KIND,
        "sizes": language.causal.transformer.sizes,
        "tokenizer": language.tokenizer.to_json(),
        "scorers": list(language.scorers),
        "shares": language.shares,
        "balance": language.balance,
        "alphabet": language.alphabet,
        "card": language.card,
    }
    storage.save(Path(path), stored, facts)


def load(path: str | Path) -> Language:
    """Return the language in a file that `save` wrote, in float32, without gradients.

    Raises:
        FileNotFoundError: If there is no such file.
        StorageError: If the file is damaged, or holds something else.
    """
    stored = storage.load(Path(path))
    facts = stored.facts
    if facts.get("kind") != KIND:
        raise StorageError(
            f"{path}: expected a language, as ebrl.sequences.save writes it, got a file of kind "
            f"{facts.get('kind')!r}"
        )
    try:
        return _built(facts, dequantized(stored.tensors))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise StorageError(f"{path}: this language does not fit together: {reason}") from error


@cache
def english() -> Language:
    """Return the English language that comes with the package."""
    return load(ENGLISH)


def trainable(language: str = "english") -> CausalEnergy:
    """Return a copy of a language's causal energy, to train further on other text.

    Args:
        language: "english", or a file that `save` wrote.

    Raises:
        FileNotFoundError, StorageError: As `load`.
    """
    return deepcopy(_named(language).causal).train().requires_grad_(True)


def tokenizer(language: str = "english") -> Tokenizer:
    """Return a language's tokenizer, to encode the text that `trainable` learns; called as that."""
    return _named(language).tokenizer


def _named(language: str) -> Language:
    return english() if language == "english" else load(language)


def _built(facts: dict[str, Any], tensors: dict[str, Tensor]) -> Language:
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
        transformer = Transformer(**facts["sizes"])
        scorers = {name: ScorerEnergy(transformer) for name in facts["scorers"]}
    transformer.load_state_dict(_under("transformer.", tensors))
    for name, scorer in scorers.items():
        scorer.head.load_state_dict(_under(f"{name}.", tensors))
    for energy in (causal := CausalEnergy(transformer), *scorers.values()):
        energy.eval().requires_grad_(False)
    tokenizer = Tokenizer(facts["tokenizer"])
    if tokenizer.vocabulary != transformer.vocabulary:
        raise ValueError(
            f"expected a tokenizer and a transformer of one vocabulary, got "
            f"{tokenizer.vocabulary} and {transformer.vocabulary} tokens"
        )
    return Language(
        tokenizer,
        causal,
        scorers,
        facts["shares"],
        tensors["log_frequencies"],
        facts["balance"],
        tensors["fluency"],
        facts["alphabet"],
        facts["card"],
    )


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def quantized(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return what a tensor is stored as: a matrix in 8 bits and the scale of each row."""
    if tensor.ndim != 2:
        return {name: tensor.half()}
    scale = (tensor.abs().amax(1, keepdim=True) / 127).clamp_min(1e-7).half()
    return {name: (tensor / scale.float()).round().clamp(-127, 127).char(), name + SCALE: scale}


def dequantized(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that were stored, in float32."""
    return {
        name: tensor.float() * stored[name + SCALE].float()
        if name + SCALE in stored
        else tensor.float()
        for name, tensor in stored.items()
        if not name.endswith(SCALE)
    }
