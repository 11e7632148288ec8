"""Data parallel: two processes and one on the same shares of a batch; weights and CPU time.

    python benchmarks/data_parallel.py --out benchmarks/results/data_parallel

One process takes both shares of each batch in turn, two take one each. The largest difference
between weights is measured after 50 steps. The time is CPU time of the steps, of all processes
together, so that it is comparable on a machine that others use: what is lost is communication and
the work that both processes do alike (Adam, the order of the data). On idle cores two processes
finish in half the time divided by the efficiency.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from machine import commit, processor
from torch import nn
from torch.multiprocessing import spawn

from ebrl import Sampler, kernels, networks, objectives
from ebrl.objectives import Objective
from ebrl.spaces import Box
from ebrl.training import fit, two_moons

SPACE = Box(-3 * torch.ones(2), 3 * torch.ones(2))
NOISE = objectives.NormalNoise(torch.zeros(2), 1.5 * torch.ones(2))
BATCH, HIDDEN, COMPARED, TIMED = 512, (128, 128), 50, 200


def objective(name: str) -> Objective:
    if name == "persistent contrastive divergence":
        return objectives.persistent(SPACE, 2_048, 2)
    if name == "contrastive divergence":
        sampler = Sampler(kernels.MALA(), SPACE, steps=2, step_size=0.01)
        return objectives.ContrastiveDivergence(sampler)
    if name == "denoising score matching":
        return objectives.DenoisingScoreMatching(0.3)
    return objectives.NCE(NOISE, 4)


TASKS = (
    "contrastive divergence",
    "persistent contrastive divergence",
    "denoising score matching",
    "noise contrast",
)


def train(name: str) -> dict[str, Any]:
    """Return the weights after `COMPARED` steps and the CPU seconds of `TIMED` more."""
    torch.manual_seed(0)
    data = two_moons(20_000).tensors[0]
    energy, clock = networks.MLPEnergy(2, HIDDEN), {}

    def watch(training: Any, metrics: Any) -> None:
        if training.step == COMPARED:
            clock["weights"] = nn.utils.parameters_to_vector(energy.parameters()).detach().clone()
            clock["start"] = time.process_time()

    fit(
        energy, (data - data.mean(0)) / data.std(0), objective(name), steps=COMPARED + TIMED,
        generator=torch.Generator().manual_seed(1), batch_size=BATCH, shares=2, callbacks=[watch],
    )  # fmt: skip
    return {"weights": clock["weights"], "seconds": time.process_time() - clock["start"]}


def process(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for name in TASKS:
        torch.save(train(name), f"{folder}/{name}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/data_parallel"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        spawn(process, (port, folder), nprocs=2)
        for name in TASKS:
            alone = train(name)
            together = [torch.load(f"{folder}/{name}-{rank}.pt") for rank in range(2)]
            figures[name] = {
                "difference": float((together[0]["weights"] - alone["weights"]).abs().max()),
                "alone": alone["seconds"],
                "together": sum(each["seconds"] for each in together),
            }
            print(json.dumps({name: figures[name]}), flush=True)
    given.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    lines = [
        "| objective | largest difference of a weight | CPU s, one process | CPU s, two together "
        "| efficiency |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {f['difference']:.1e} | {f['alone']:.1f} | {f['together']:.1f} "
            f"| {f['alone'] / f['together']:.2f} |"
            for name, f in figures.items()
        ),
        "",
        f"A perceptron of {' x '.join(map(str, HIDDEN))}, batches of {BATCH:,}, {COMPARED} steps "
        f"compared and {TIMED} timed, gloo. Commit {commit()}, {processor()}, one thread each.",
    ]
    given.out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
