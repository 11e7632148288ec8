"""Every Python block of the README and of the documentation runs, and every command exists.

The blocks of one page run in order, in one namespace and an empty folder. Comments of a page steer:

    <!-- quick: steps=1500 -> steps=5 -->     for the next block; the slow test runs it as printed
    <!-- test                                 Python that runs here: what the page leaves to the
    assert draws.shape == (1000, 2)           reader, such as a photograph, and what it promises
    -->
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
PARTS = re.compile(
    r"^(?P<level>#+) (?P<heading>[^\n]+)$"
    r"|^<!-- quick: (?P<old>[^\n]+?) -> (?P<new>[^\n]*?) -->"
    r"|^<!-- test\n(?P<hidden>.*?)-->"
    r"|^```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """Python of a page: what is printed, and what runs quickly."""

    heading: str
    printed: str
    quick: str


def blocks(text: str) -> Iterator[Block]:
    """Yield the Python blocks of a page in order, hidden ones too."""
    heading, changes = "", []
    for part in PARTS.finditer(text):
        if part["heading"]:
            heading = part["heading"]
        elif part["old"]:
            changes.append((part["old"], part["new"]))
        elif part["hidden"]:
            yield Block(heading, part["hidden"], part["hidden"])
        elif part["language"] == "python":
            quick = part["code"]
            for old, new in changes:
                assert old in quick, f"under {heading!r} no block says {old!r}"
                quick = quick.replace(old, new)
            changes.clear()
            yield Block(heading, part["code"], quick)
    assert not changes, f"no block follows {changes}"


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every `ebrl` command in the bash blocks of a page."""
    for part in PARTS.finditer(text):
        if part["language"] == "bash":
            for line in part["code"].replace("\\\n", " ").splitlines():
                for command in line.split("&&"):
                    words = shlex.split(command, comments=True)
                    if words[:1] == ["ebrl"]:
                        yield words[1:]


def run(page: str, *, quick: bool) -> None:
    """Run the page's blocks; a failure names the page and the heading."""
    names: dict[str, Any] = {"__name__": "documentation"}
    for block in blocks(PAGES[page]):
        source = block.quick if quick else block.printed
        exec(compile(source, f"{page}, {block.heading}", "exec"), names)


WITH_PYTHON = [page for page, text in PAGES.items() if any(True for _ in blocks(text))]
LONG = [page for page in WITH_PYTHON if any(b.quick != b.printed for b in blocks(PAGES[page]))]
COMMANDS = {tuple(words) for text in PAGES.values() for words in commands(text)}


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_the_python_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(page, quick=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)  # trainings of minutes, on a machine that may be busy
@pytest.mark.parametrize("page", LONG)
def test_the_python_of_a_page_runs_as_printed(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(page, quick=False)


@pytest.mark.parametrize("verb", sorted({words[0] for words in COMMANDS if words[0][0] != "-"}))
def test_every_option_of_a_printed_command_exists(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):
        import_module("ebrl.command").main([verb, "--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: ")
    for words in COMMANDS:
        if words[0] == verb:
            options = [word.partition("=")[0] for word in words if word.startswith("--")]
            named = [option for option in options if not option.startswith(("--agent.", "--data."))]
            assert all(option in text for option in named), words


@pytest.mark.parametrize("words", sorted(w for w in COMMANDS if w[0] in ("train", "fit")))
def test_a_printed_config_comes_with_the_package(words: tuple[str, ...]) -> None:
    verb, config, *_ = words
    if not config.startswith("my/"):  # a config of the reader's own
        assert (ROOT / "configs" / f"{config}.yaml").is_file(), f"ebrl {verb} {config}"


@pytest.mark.parametrize("page", PAGES)
def test_yaml_of_a_page_is_yaml(page: str) -> None:
    for part in PARTS.finditer(PAGES[page]):
        if part["language"] == "yaml":
            yaml.safe_load(part["code"])


def test_every_table_of_the_benchmarks_is_on_a_page() -> None:
    tables = {path.name for path in (ROOT / "benchmarks/results").glob("*.md")}
    text = "".join(PAGES.values())
    assert {table for table in tables if f'--8<-- "{table}"' not in text} == set()


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")}
    assert {page for page in pages if page not in navigation} == set()
