"""The README's Python runs as it is printed, with fewer steps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def ends_with(snippet: str) -> dict:
    names: dict = {}
    exec(compile(snippet, "README.md", "exec"), names)
    return names


def test_the_agent() -> None:
    assert "learn(8_000, progress_bar=True)" in SNIPPETS[0]
    names = ends_with(SNIPPETS[0].replace("learn(8_000, progress_bar=True)", "learn(150)"))
    assert names["actions"].shape == (64, 1)
    assert names["energies"].shape == (64,)


def test_the_core_alone() -> None:
    assert ends_with(SNIPPETS[1])["samples"].x.shape == (4096, 1)


@pytest.mark.parametrize("steps", [5, pytest.param(1500, marks=pytest.mark.slow)])
def test_an_energy_of_two_moons(steps: int) -> None:
    assert "steps=1500" in SNIPPETS[2]
    names = ends_with(SNIPPETS[2].replace("steps=1500", f"steps={steps}"))
    assert names["draws"].shape == (1000, 2)
    assert names["bounds"].upper.value.isfinite()
