"""Speed: sentences scored a second on one thread, beside GPT-2's architecture of the same size.

    python benchmarks/sentence_speed.py --out benchmarks/results/sentence_speed

The causal energy of random tokens by the shipped sizes, and `transformers`' GPT-2 of as many layers
and as much width with random weights, to the same log probabilities; lengths and batches. Process
time, the median of five.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from english import markdown, write
from transformers import GPT2Config, GPT2LMHeadModel

from ebrl.sequences.energies import CausalEnergy
from ebrl.sequences.transformer import Transformer

SHAPES = [(1, 16), (16, 16), (64, 16), (64, 32), (64, 64), (64, 120)]


@torch.no_grad()
def rate(score: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> float:
    """Return sentences a second."""
    score(x)
    times = []
    for _ in range(5):
        began = time.process_time()
        score(x)
        times.append(time.process_time() - began)
    return len(x) / median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sentence_speed"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    transformer = Transformer().eval()
    sizes = transformer.sizes
    gpt2 = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=sizes["vocabulary"],
            n_positions=sizes["context"],
            n_embd=sizes["width"],
            n_layer=sizes["layers"],
            n_head=sizes["heads"],
            bos_token_id=2,
            eos_token_id=2,
            n_inner=sizes["hidden"] * 3 // 2,  # two matrices of as many numbers as our three
        )
    ).eval()

    def by_gpt2(x: torch.Tensor) -> torch.Tensor:
        rows = torch.nn.functional.pad(x, (1, 1), value=2)  # between boundaries, as ours
        logits = gpt2(rows[:, :-1]).logits
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none"
        )

    counts = [sum(p.numel() for p in each.parameters()) for each in (transformer, gpt2)]
    lines = []
    for batch, length in SHAPES:
        x = torch.randint(3, sizes["vocabulary"], (batch, length))
        ours, theirs = rate(CausalEnergy(transformer), x), rate(by_gpt2, x)
        lines.append([batch, length, ours, theirs, ours / theirs])
        print(lines[-1], flush=True)
    text = f"Parameters: {counts[0]:,} ours, {counts[1]:,} GPT-2. Sentences a second.\n\n"
    text += markdown(["batch", "tokens", "ours", "GPT-2", "ours / GPT-2"], lines) + "\n"
    write(given.out, text, {"lines": lines, "parameters": counts})


if __name__ == "__main__":
    main()
