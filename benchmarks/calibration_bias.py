"""Biased kernels beside the closed forms of their bias: part of `calibration.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from calibration_moments import SCALES, TEMPERATURES, Section, standard_errors, starts, stream
from calibration_peers import PEERS, Peer, installed
from torch import Tensor

from ebrl.kernels import ULA, Underdamped
from ebrl.sampling import Sampler

SIZES = (0.05, 0.2, 0.4)  # of ULA's steps


class Bias(NamedTuple):
    """The variance that a biased kernel gives the narrowest coordinate, and what it should be."""

    sampler: str
    step_size: float
    temperature: float
    variance: float
    variance_se: float
    closed_form: float
    target: float
    error: float  # of all moments, from the closed forms, in standard errors


def discretised(kind: str, step_size: float, temperature: float) -> Tensor:
    """Return the stationary variances of a biased kernel on the Gaussian, `(3,)`."""
    variance = SCALES.target.variance
    shrinks = step_size / (2 * variance) if kind == "ULA" else step_size**2 / (4 * variance)
    return temperature * variance / (1 - shrinks)


Move = Callable[[Tensor, int], Tensor]  # (starts, seed) -> where the chains end


def biased(
    name: str, kind: str, move: Move, step_size: float, temperature: float, seeds: Sequence[int]
) -> Bias:
    """Return what is left after chains have forgotten that they began at the target's own law."""
    draws = []
    for seed in seeds:
        generator = stream(name, step_size, temperature, seed)
        draws.append(move(starts(SCALES, temperature, "exact draws", generator), seed))
    x, closed = torch.cat(draws), discretised(kind, step_size, temperature)
    square = (x[:, 0] - SCALES.target.mean[0]).double().square()
    return Bias(
        name, step_size, temperature, float(square.mean()), float(square.std() / len(x) ** 0.5),
        float(closed[0]), float(temperature * SCALES.target.variance[0]),
        float(standard_errors(x, SCALES.target.mean, closed).max()),
    )  # fmt: skip


def steps(step_size: float) -> int:
    """Return how many forget the start: the widest coordinate keeps `exp(-step_size / 4)` a step.

    Of the start's mean; of its variance the square of that.
    """
    return math.ceil(40 / step_size)


def ours(kernel: ULA | Underdamped, step_size: float, temperature: float) -> Move:
    sampler = Sampler(kernel, steps=steps(step_size), step_size=step_size, temperature=temperature)
    name = type(kernel).__name__
    return lambda x, seed: (
        sampler.sample(
            SCALES.target, x, generator=stream("moves", name, step_size, temperature, seed)
        ).x
    )


def theirs(peer: Peer, step_size: float) -> Move:
    return lambda x, seed: peer.run(SCALES.target, x, step_size, steps(step_size), seed).x


def biases(seeds: Sequence[int]) -> Section:
    """ULA's and the underdamped kernel's variance beside their closed forms."""
    rows = []
    for temperature in TEMPERATURES:
        for kernel, sizes in ((ULA(), SIZES), (Underdamped(), (0.2, 0.5, 0.9))):
            kind = type(kernel).__name__
            for size in sizes:
                move = ours(kernel, size, temperature)
                rows.append(biased(f"ebrl {kind}", kind, move, size, temperature, seeds))
    for peer in installed([peer for peer in PEERS if peer.kind == "ULA"]):
        rows += [
            biased(f"{peer.library} ULA", "ULA", theirs(peer, size), size, 1.0, seeds)
            for size in SIZES
        ]
    lines = [
        f"| {row.sampler} | {row.step_size:g} | {row.temperature:g} | {row.variance:.4f} ± "
        f"{row.variance_se:.4f} | {row.closed_form:.4f} | {row.target:g} | {row.error:.1f} |"
        for row in rows
    ]
    text = [
        f"Biased kernels on {SCALES.name}: the variance of the narrowest coordinate beside the "
        "closed form of the discretised chain, and the largest error of all moments from theirs.",
        "",
        "| sampler | step size | T | variance | closed form | target | error of all moments |",
        "|---|---|---|---|---|---|---|",
        *lines,
    ]
    return Section("biases", "\n".join(text), rows)
