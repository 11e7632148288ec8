"""The README is short, its figures are those that were measured, and its links agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SITE = re.search(r'Documentation = "(.+?)"', (ROOT / "pyproject.toml").read_text())[1]  # type: ignore[index]
SOURCE = re.search(r'Source = "(.+?)"', (ROOT / "pyproject.toml").read_text())[1]  # type: ignore[index]
FIGURES = {  # what the README says: the table that says so, too
    "3.95": "returns",
    "1.63": "update_speed_avx2",
    "0.69": "update_speed_avx2",
    "3.20": "update_speed",
    "30 of 30 runs": "exact_worlds",
    "28.25": "denoising",
    "27.79": "denoising",
    "1,584 moments": "calibration",
    "3.6 standard errors": "calibration",
}


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 160


@pytest.mark.parametrize(("figure", "table"), FIGURES.items())
def test_a_figure_was_measured(figure: str, table: str) -> None:
    assert figure in README
    assert figure in (ROOT / f"benchmarks/results/{table}.md").read_text()


def test_every_page_that_the_readme_links_exists() -> None:
    pages = re.findall(rf"{re.escape(SITE)}([\w/]+)/\)", README)
    assert len(pages) >= 4
    assert [page for page in pages if not (ROOT / f"docs/{page}.md").exists()] == []


@pytest.mark.parametrize("file", ["README.md", "mkdocs.yml", "CITATION.cff", "CONTRIBUTING.md"])
def test_the_project_has_one_address(file: str) -> None:
    owner = SOURCE.split("/")[3]
    text = (ROOT / file).read_text()
    addresses = re.findall(r"github(?:usercontent)?\.com/([\w-]+)/ebrl\b", text)
    assert set(addresses) <= {owner}
    assert (SITE in text) or (SOURCE in text)
