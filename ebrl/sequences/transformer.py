"""One small transformer that reads a sentence in two ways: from the left, or all around.

Pre-normalised blocks, rotary positions (Su et al. 2021), gated units (Shazeer 2020), and one matrix
for the embedding and the output. Read causally, it predicts the next token at every position. Read
both ways, it predicts the next token where that is masked. Both readings share every weight
(Charpentier and Samuel 2024, GPT-BERT).
"""

from __future__ import annotations

from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ebrl.sequences.tokens import BOUNDARY, SPECIAL

PREDICTED = BOUNDARY  # tokens below it, `PAD` and `MASK`, are never predicted


class Transformer(nn.Module):
    """From tokens to the log probabilities of the next token.

    Args:
        vocabulary: Tokens, special ones included.
        width: Features of a token.
        layers: Number of blocks.
        heads: Attention heads of a block; they share the width.
        hidden: Units between the two matrices of a block's gated network.
        context: The longest row it reads, boundaries included.
        dropout: Dropout of the embedding and of what each block adds.

    Raises:
        ValueError: If a size is not positive, or the width is no even multiple of the heads.
    """

    def __init__(
        self,
        vocabulary: int = 6144,
        width: int = 256,
        layers: int = 4,
        heads: int = 4,
        hidden: int = 512,
        context: int = 128,
        dropout: float = 0.0,
    ):
        super().__init__()
        sizes = (width, layers, heads, hidden, context)
        if min(sizes) < 1 or vocabulary <= len(SPECIAL) or width % (2 * heads):
            raise ValueError(
                f"expected positive sizes, a vocabulary of more than {len(SPECIAL)} and a width "
                f"that 2 * heads divides, got {vocabulary=}, {width=}, {layers=}, {heads=}, "
                f"{hidden=}, {context=}"
            )
        self.vocabulary, self.width, self.context = vocabulary, width, context
        self.sizes = {"vocabulary": vocabulary, "width": width, "layers": layers, "heads": heads}
        self.sizes |= {"hidden": hidden, "context": context}
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout) for _ in range(layers))
        self.first_norm = nn.LayerNorm(width, bias=False)
        self.last_norm = nn.LayerNorm(width, bias=False)
        self.bias = nn.Parameter(torch.zeros(vocabulary - PREDICTED))
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def embed(self, x: Tensor) -> Tensor:
        """Return the features of tokens `(n, length)`, or of one-hot `(n, length, vocabulary)`.

        Raises:
            ValueError: On the CPU, for numbers that are no tokens.
        """
        weight = self.embedding.weight
        try:
            return x @ weight if x.is_floating_point() else F.embedding(x, weight)
        except IndexError as error:
            raise ValueError(
                f"expected tokens from 0 to {self.vocabulary - 1}, got {x.min()} to {x.max()}: "
                "raise `vocabulary`, or encode by a tokenizer of as many tokens"
            ) from error

    def forward(
        self, embedded: Tensor, length: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        """Return the features after the last block, `(n, length, width)`.

        Args:
            embedded: `(n, length, width)`.
            length: The number of tokens before the padding, `(n,)`, to read both ways; None reads
                from the left, where padding that comes after a token cannot reach it.
            memory: Keys and values of the tokens read before, to which those of this call are
                added; for reading from the left, one token at a time.

        Raises:
            ValueError: If there are more tokens than the context.
        """
        before = memory.places if memory else 0
        places = before + embedded.shape[1]
        if places > self.context:
            raise ValueError(
                f"expected at most {self.context} tokens, boundaries included, got {places}: "
                "split the text into sentences"
            )
        mask = None
        if length is not None:
            inside = torch.arange(places, device=length.device) < length.unsqueeze(1)
            mask = inside[:, None, None]  # (n, 1, 1, length)
        cos, sin = rotation(places, self.width // self.sizes["heads"], embedded)
        turn = cos[before:], sin[before:]
        h = self.dropout(self.first_norm(embedded))
        for i, block in enumerate(self.blocks):
            h = block(h, turn, mask, memory.layers[i] if memory else None)
        return self.last_norm(h)

    @torch.no_grad()
    def narrowed(self, vocabulary: int) -> Transformer:
        """Return a copy that knows the first `vocabulary` tokens alone.

        Its probabilities are those of this one, given that no other token comes.

        Raises:
            ValueError: If there are not so many tokens.
        """
        if not len(SPECIAL) < vocabulary <= self.vocabulary:
            raise ValueError(
                f"expected {len(SPECIAL)} < vocabulary <= {self.vocabulary}, got {vocabulary}"
            )
        copy = deepcopy(self)
        copy.vocabulary = copy.embedding.num_embeddings = vocabulary
        copy.sizes["vocabulary"] = vocabulary
        copy.embedding.weight.data = self.embedding.weight[:vocabulary].clone()
        copy.bias.data = self.bias[: vocabulary - PREDICTED].clone()
        return copy

    def memory(self) -> Memory:
        """Return an empty memory."""
        return Memory([[] for _ in self.blocks])

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits of every token from `PREDICTED` on, `(…, vocabulary - PREDICTED)`."""
        return F.linear(features, self.embedding.weight[PREDICTED:], self.bias)


class Memory(NamedTuple):
    """Keys and values of the tokens that were read, of each block."""

    layers: list[list[Tensor]]  # [] or [keys, values], (n, heads, places, features) each

    @property
    def places(self) -> int:
        """The number of tokens that were read."""
        return self.layers[0][0].shape[2] if self.layers[0] else 0


class Block(nn.Module):
    """Attention, then a gated network; each is added to what it reads."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.attention = Attention(width, heads)
        self.network = Gated(width, hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        for part in (self.attention, self.network):  # a block begins as the identity
            nn.init.zeros_(part.out.weight)

    def forward(
        self,
        h: Tensor,
        turn: tuple[Tensor, Tensor],
        mask: Tensor | None,
        memory: list[Tensor] | None,
    ) -> Tensor:
        h = h + self.dropout(self.attention(self.norms[0](h), turn, mask, memory))
        return h + self.dropout(self.network(self.norms[1](h)))


class Attention(nn.Module):
    """Scaled dot products of several heads; causal where there is no mask."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.features = heads, width // heads
        self.queries = nn.Linear(width, width, bias=False)
        self.keys = nn.Linear(width, width, bias=False)
        self.values = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self,
        h: Tensor,
        turn: tuple[Tensor, Tensor],
        mask: Tensor | None,
        memory: list[Tensor] | None,
    ) -> Tensor:
        q, k, v = (
            part(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.queries, self.keys, self.values)
        )  # (n, heads, length, features)
        q, k = rotated(q, turn), rotated(k, turn)
        if memory is not None:
            k, v = (
                (torch.cat(pair, 2) for pair in zip(memory, (k, v), strict=True))
                if memory
                else (k, v)
            )
            memory[:] = [k, v]
        return self.out(attend(q, k, v, mask).transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return scaled dot products, `(n, heads, length, features)`; causal without a mask."""
    causal = mask is None and q.shape[2] > 1
    if q.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    # For rows as short as sentences the CPU's fused kernel has a slow backward pass.
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


class Gated(nn.Module):
    """`out(silu(gate(h)) * value(h))`."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.value = nn.Linear(width, hidden, bias=False)
        self.out = nn.Linear(hidden, width, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        return self.out(F.silu(self.gate(h)) * self.value(h))


def rotation(places: int, features: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of each place's angles, `(places, features / 2)` each."""
    frequency = 10_000 ** -(torch.arange(0, features, 2, device=like.device) / features)
    angle = torch.arange(places, device=like.device).unsqueeze(1) * frequency
    return angle.cos(), angle.sin()


def rotated(h: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn pairs of features `(…, places, features)` by their place's angle."""
    cos, sin = (part.to(h.dtype) for part in turn)
    a, b = h.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
