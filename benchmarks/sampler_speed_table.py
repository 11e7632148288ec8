"""The figures of `sampler_speed.py` as tables."""

from __future__ import annotations

from typing import Any


def as_markdown(record: dict[str, dict], about: dict[str, str]) -> str:
    """Return the tables of each machine, below what each workload is `about`."""
    workloads = [f"- {name}: {what}" for name, what in about.items()]
    machines = [line for name, found in record.items() for line in of_machine(name, **found)]
    return "\n".join([*workloads, *machines]).strip() + "\n"


def of_machine(name: str, facts: dict[str, Any], tables: dict[str, dict[str, dict]]) -> list[str]:
    lines = [f"\n***{name}***", *(f"\n{key}: {fact}  " for key, fact in facts.items())]
    for threads, table in tables.items():
        lines += [f"\n**{threads} thread{'s' if threads != '1' else ''}**\n"]
        lines += [
            "| workload: rival | ms a run | x reference, median (range) | target | built in, s |"
        ]
        lines += ["|---|---|---|---|---|"]
        for name, figures in table.items():
            ratio = "–"
            if "ratio" in figures:
                low, high = figures["ratio_range"]
                ratio = f"{figures['ratio']:.3f} ({low:.3f} to {high:.3f})"
            target = f"{figures['target']:.2f}" if "target" in figures else ""
            # Of what builds fast this is the noise between two runs.
            built = (
                f"{max(figures['compile_seconds'], 0):.1f}" if "compile_seconds" in figures else ""
            )
            lines.append(
                f"| {name} | {1e3 * figures['seconds']:.4g} | {ratio} | {target} | {built} |"
            )
    return lines
