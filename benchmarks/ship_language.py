"""From a trained transformer to the English language that ships.

    EBRL_DATA=… python benchmarks/ship_language.py runs/english/HybridLikelihood-0

Trains two small scorers on what the transformer reads: contrastive (real against corrupted
sentences) and residual (noise contrast against the model's own draws). The share of each energy in
the sum that judges is chosen on the first half of the validation sentences against the broken
copies of benchmarks/coherence.py, which no energy was trained on; BLiMP plays no part. Writes
ebrl/sequences/weights/english.safetensors with its card.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from coherence import broken_copies
from english import TRAIN, VALID, judge, share_won

from ebrl.objectives import NCE
from ebrl.sequences.energies import ScorerEnergy
from ebrl.sequences.judging import with_reference
from ebrl.sequences.language import ENGLISH, Language, english, load, save
from ebrl.sequences.objectives import Contrast, Draws
from ebrl.sequences.text import sentences
from ebrl.sequences.tokens import PAD, padded
from ebrl.training import fit
from ebrl.training.precision import fastest_precision
from ebrl.training.ragged import Ragged

DRAWS = 1500  # of the language model, for noise contrast
EVERY = 3  # sentence of the training text is one that scorers are trained on
LONGEST = 32  # tokens of the sentences that scorers are trained on
SHARES = {  # the masked energy is left out: it takes a pass for each token, and gained nothing
    "contrastive": (0.0, 0.25, 0.5, 1.0, 2.0),
    "residual": (0.0, 0.5, 1.0),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def train_scorer(
    language: Language, kind: str, rows: list[torch.Tensor], steps: int
) -> ScorerEnergy:
    """Return a scorer of the transformer, which stays as it is."""
    torch.manual_seed(0)
    transformer = language.causal.transformer.requires_grad_(False)
    scorer = ScorerEnergy(transformer)
    data: Ragged | torch.Tensor = Ragged(rows)
    if kind == "contrastive":
        objective = Contrast()
    else:
        drawn = language.causal.sample((DRAWS,), generator(), longest=LONGEST + 1)
        drawn = drawn[(drawn[:, LONGEST:] == PAD).all(1), :LONGEST]
        objective = NCE(Draws(drawn), ratio=1)
        data = padded(rows, LONGEST)
    fit(
        scorer,
        data,
        objective,
        steps=steps,
        batch_size=32,
        learning_rate=2e-3,
        schedule=lambda progress: 1 - progress,
        generator=generator(),
        precision=fastest_precision(torch.device("cpu")),
        callbacks=[progress(kind)],
    )
    return scorer.eval().requires_grad_(False)


def progress(kind: str):  # type: ignore[no-untyped-def]
    seen: list[float] = []

    def show(training, metrics) -> None:  # type: ignore[no-untyped-def]
        seen.append(float(metrics["ranked_below"]))
        if training.step % 25 == 0:
            print(f"{kind} {training.step} ranked below {sum(seen[-25:]) / 25:.3f}", flush=True)

    return show


def choose(language: Language, texts: list[str]) -> dict[str, float]:
    """Return the shares whose sum best tells the texts from broken copies, in the mean of kinds."""
    kinds = {"real": texts, **broken_copies(texts)}
    energies = {  # of each name and kind, (texts,)
        name: {kind: judge(language, language.energies[name])(each) for kind, each in kinds.items()}
        for name in ("causal", *SHARES)
    }
    best = (0.0, {"causal": 1.0})
    for shares in itertools.product(*SHARES.values()):
        weights = {"causal": 1.0, **{k: s for k, s in zip(SHARES, shares, strict=True) if s}}
        total = {kind: sum(s * energies[k][kind] for k, s in weights.items()) for kind in kinds}
        real = total.pop("real")
        won = {kind: share_won(real, false) for kind, false in total.items()}
        mean = sum(won.values()) / len(won)
        print(f"{mean:.4f} {weights} " + ", ".join(f"{k} {v:.3f}" for k, v in won.items()))
        best = max(best, (mean, weights), key=lambda each: each[0])
    return best[1]


def facts_of(run: Path) -> dict[str, Any]:
    """Return what the config of a run says that its language does not."""
    if not run.is_dir():
        return {}
    config = yaml.safe_load((run / "config.yaml").read_text())
    energy = config["energy"]
    if energy["class_path"].endswith("trainable"):
        command = "ebrl fit sequences/english, then sequences/english_further"
        card = english().card
        steps = card["steps"] + card.get("steps before", 0)
        return {"fit": command, "batch": config["batch_size"], "steps before": steps}
    transformer = energy["init_args"]["transformer"]["init_args"]
    return {
        "fit": "ebrl fit sequences/english",
        "batch": config["batch_size"],
        "dropout": transformer["dropout"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="of `ebrl fit sequences/english`, or a language")
    parser.add_argument("--steps", type=int, default=1500, help="of the contrastive scorer")
    parser.add_argument("--residual-steps", type=int, default=150, help="fewer: its draws are few")
    parser.add_argument("--valid", type=int, default=600, help="sentences to choose shares on")
    parser.add_argument("--machine", help="that trained the transformer, for the card")
    parser.add_argument("--out", type=Path, default=ENGLISH)
    given = parser.parse_args()
    torch.set_num_threads(1)
    language = load(given.run / "language.safetensors" if given.run.is_dir() else given.run)
    began = time.process_time()
    encoded = language.tokenizer.encode_all(sentences(TRAIN)[::EVERY])
    rows = [row for row in encoded if 2 < len(row) <= LONGEST]
    steps = {"contrastive": given.steps, "residual": given.residual_steps}
    scorers = {kind: train_scorer(language, kind, rows, count) for kind, count in steps.items()}
    held_out = sentences(VALID)
    short = [text for text in held_out[:2000] if 6 <= len(text.split()) <= 30]
    language = language._replace(scorers=scorers)
    language = language._replace(shares=choose(language, short[: given.valid]))
    language = with_reference(language, held_out[:1000])
    nats = judge(language, language.causal)(held_out[2000:])
    tokens = sum(len(row) + 1 for row in language.tokenizer.encode_all(held_out[2000:]))
    words = sum(len(text.split()) + 1 for text in held_out[2000:])
    facts = {**language.card, **facts_of(given.run)}
    step = language.card["step"] if "step" in language.card else language.card["steps"]
    card = {
        **{name: fact for name, fact in facts.items() if name != "step"},
        "steps": step,
        "data": "Brown, ABC news, US presidents' speeches, film reviews and plots (nltk_data); "
        "3.5 million words",
        "licence of the data": "speeches: public domain; plots: CC BY 4.0; the others: as "
        "nltk_data has them",
        "scorer steps": steps,
        "scorer seconds": round(time.process_time() - began),
        "valid nats a token": round(float(nats.sum()) / tokens, 4),
        "valid perplexity a word": round(float(torch.tensor(nats.sum() / words).exp()), 1),
        "command": f"{facts['fit']} (its steps and batch are above); "
        f"python benchmarks/ship_language.py RUN --steps {given.steps} "
        f"--residual-steps {given.residual_steps}",
        **({"training": given.machine} if given.machine else {}),
    }
    given.out.parent.mkdir(exist_ok=True)
    save(language._replace(card=card), given.out)
    print(card, language.shares, given.out.stat().st_size)


if __name__ == "__main__":
    main()
