"""Text to tokens and back: a byte-level BPE that is trained on the user's own text.

Bytes are the alphabet, so that every text has tokens and no token is unknown. Three more tokens
are never part of a text: `PAD` fills a row after its sentence, `MASK` hides a token from a model,
and `BOUNDARY` stands before and after every sentence.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from tokenizers import Tokenizer as Encoder
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor

from ebrl.spaces import PADDING

PAD, MASK, BOUNDARY = PADDING, 1, 2
SPECIAL = ("<pad>", "<mask>", "<s>")  # by their numbers
SPACE = "\u0120"  # the byte of a space, as a byte-level BPE spells it
REPLACEMENT = "\ufffd"  # what bytes that are no character are decoded to
ALPHABET = 256 + len(SPECIAL)  # bytes and special tokens: the smallest vocabulary


class Piece(NamedTuple):
    """A token of a text and where it lies in it."""

    token: int
    start: int  # characters
    end: int


class Tokenizer:
    """A byte-level BPE. `json` is what `to_json` returned."""

    def __init__(self, json: str):
        try:
            self.encoder = Encoder.from_str(json)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(
                f"expected a tokenizer as Tokenizer.to_json gives it, got one that is {error}"
            ) from error
        found = tuple(self.encoder.id_to_token(number) for number in range(len(SPECIAL)))
        if found != SPECIAL:
            raise ValueError(
                f"expected a tokenizer whose first tokens are {SPECIAL}, got {found}: train one "
                "with Tokenizer.train"
            )

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int = 6144) -> Tokenizer:
        """Train on texts.

        Args:
            texts: Sentences.
            vocabulary: The largest number of tokens, special ones included.

        Raises:
            ValueError: If the vocabulary is smaller than the bytes.
            TypeError: If `texts` is a single string.
        """
        check_several(texts)
        if vocabulary < ALPHABET:
            raise ValueError(f"expected a vocabulary of at least {ALPHABET}, got {vocabulary}")
        encoder = Encoder(models.BPE())
        encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        encoder.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=2,
            show_progress=False,
            special_tokens=list(SPECIAL),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )
        encoder.train_from_iterator(texts, trainer)
        # A text that spells "<pad>" is a text: special tokens are never read from one.
        encoder.encode_special_tokens = True
        return cls(encoder.to_str())

    @property
    def vocabulary(self) -> int:
        """The number of tokens, special ones included."""
        return self.encoder.get_vocab_size()

    def to_json(self) -> str:
        """Return all that the tokenizer knows."""
        return self.encoder.to_str()

    def encode(self, text: str) -> Tensor:
        """Return the tokens of a text, `(length,)` int64."""
        return torch.tensor(self._encode(text).ids, dtype=torch.long)

    def encode_all(self, texts: Sequence[str]) -> list[Tensor]:
        """Return the tokens of each text, `(length,)` int32 each; `TypeError` for a single one."""
        check_several(texts)
        self.encoder.encode_special_tokens = True
        encodings = self.encoder.encode_batch([normalise(text) for text in texts])
        return [torch.tensor(each.ids, dtype=torch.int32) for each in encodings]

    def pieces(self, text: str) -> list[Piece]:
        """Return the tokens of a normalised text with their places in it."""
        encoding = self._encode(text)
        return [
            Piece(token, *place)
            for token, place in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def after_a_word(self) -> Tensor:
        """Return which tokens may follow a whole word, `(vocabulary,)` bool: no letter, no digit.

        A token with a space before it begins another word.
        """
        spelled = [str(self.encoder.id_to_token(number)) for number in range(self.vocabulary)]
        return torch.tensor([text[0] == SPACE or not text[0].isalnum() for text in spelled])

    def whole(self) -> Tensor:
        """Return which tokens are whole characters, `(vocabulary,)` bool, not parts of one."""
        decoded = [self.encoder.decode([number]) for number in range(self.vocabulary)]
        return torch.tensor([text != "" and REPLACEMENT not in text for text in decoded])

    def decode(self, tokens: Tensor) -> str:
        """Return the text of `tokens: (length,)`, special ones left out."""
        kept = [token for token in tokens.tolist() if token >= len(SPECIAL)]
        return self.encoder.decode(kept).strip()

    def _encode(self, text: str):  # type: ignore[no-untyped-def]  # the library exports no type
        self.encoder.encode_special_tokens = True  # it does not survive `to_str`
        return self.encoder.encode(normalise(text))


def check_several(texts: Iterable[str]) -> None:
    """Raise `TypeError` for a single string, whose characters would be taken for texts."""
    if isinstance(texts, str):
        raise TypeError("expected a list of texts, got one text: put it in a list, [text]")


def normalise(text: str) -> str:
    """Return a text in Unicode's composed form, each run of white space one space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def padded(rows: Sequence[Tensor], length: int | None = None) -> Tensor:
    """Return rows `(length_i,)` as one tensor `(rows, longest)` int64, filled with `PAD`."""
    longest = max((len(row) for row in rows), default=0) if length is None else length
    out = torch.full((len(rows), longest), PAD, dtype=torch.long)
    for row, tokens in zip(out, rows, strict=True):
        row[: len(tokens)] = tokens
    return out
