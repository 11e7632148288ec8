"""Residual: does a language model with an energy fit held-out text better than the model alone?

    EBRL_DATA=… python benchmarks/residual.py --out benchmarks/results/residual

`p(x) ∝ p_model(x) exp(-E(x))`. Its log normalizer is bounded from below by draws of the model
(importance) and from above by draws of the residual one, which are resampled from the model's by
their weight; Bennett's bridge lies between. Held-out: the second half of the validation sentences,
up to 32 tokens, to which draws are restricted, too. Standard errors are over runs of draws, and of
the mean over sentences.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from english import VALID, markdown, write
from torch import Tensor

from ebrl.estimators import bridge, log_mean_exp
from ebrl.sequences.judging import parts_of_rows
from ebrl.sequences.language import english, load
from ebrl.sequences.text import sentences
from ebrl.sequences.tokens import PAD

LONGEST = 32
RUNS = 8


def totals(energy, rows: list[Tensor]) -> Tensor:  # type: ignore[no-untyped-def]
    return torch.stack([part.sum() for part in parts_of_rows(energy, rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/residual"))
    parser.add_argument("--model", type=Path, help="a language (default: the one that ships)")
    parser.add_argument("--draws", type=int, default=1600, help="of the language model")
    parser.add_argument("--count", type=int, default=1000, help="held-out sentences")
    given = parser.parse_args()
    torch.set_num_threads(1)
    language = load(given.model) if given.model else english()
    scorer, stream = language.scorers["residual"], torch.Generator().manual_seed(99)
    drawn = language.causal.sample((given.draws,), stream, longest=LONGEST + 1)
    drawn = drawn[(drawn[:, LONGEST:] == PAD).all(1) & (drawn[:, 0] != PAD)]
    log_weights = -totals(scorer, [row[row != PAD] for row in drawn]).double()
    size = len(drawn) // (2 * RUNS) * RUNS
    model, other = log_weights[:size], log_weights[size : 2 * size]
    picked = torch.multinomial(other.softmax(0), size, replacement=True, generator=stream)
    forward, backward = model.view(RUNS, -1), other[picked].view(RUNS, -1)
    lower, lower_error = log_mean_exp(forward)
    upper, upper_error = log_mean_exp(-backward)
    between = bridge(forward, backward)
    texts = sentences(VALID)[2000:]
    rows = [row.long() for row in language.tokenizer.encode_all(texts)]
    rows = [row for row in rows if 0 < len(row) <= LONGEST][: given.count]
    tokens = sum(len(row) + 1 for row in rows)
    alone, residual = totals(language.causal, rows), totals(scorer, rows)
    each = len(rows) / tokens
    base = float(alone.sum()) / tokens
    scale = float(residual.std()) * len(rows) ** 0.5 / tokens
    lines: list[list[object]] = [["language model", base, "", float(torch.tensor(base).exp())]]
    found = {"language model": base}
    for name, value, error in [
        ("residual, lower bound of log Z", lower, lower_error),
        ("residual, bridge", between.value, between.standard_error),
        ("residual, upper bound of log Z", -upper, upper_error),
    ]:
        nats = base + float(residual.sum()) / tokens + float(value) * each
        wrong = ((float(error) * each) ** 2 + scale**2) ** 0.5
        lines.append([name, nats, wrong, float(torch.tensor(nats).exp())])
        found[name] = nats
        found[f"{name}: standard error"] = wrong
        found[f"{name}: log Z"] = float(value)
    weight = forward.flatten().softmax(0)
    share = float(1 / weight.square().sum()) / weight.numel()
    text = markdown(["of held-out text", "nats a token", "standard error", "perplexity"], lines)
    text += f"\n\nEffective share of the model's draws under the residual: {share:.2f}. "
    text += "Standard errors are of the difference from the language model.\n"
    write(given.out, text, {"found": found, "effective share": share, "card": language.card})


if __name__ == "__main__":
    main()
