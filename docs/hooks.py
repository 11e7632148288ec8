"""What the site needs beyond MkDocs' plugins: formulas, pictures of the results, `ebrl.agents`."""

from __future__ import annotations

import atexit
import html
import re
import shutil
import tempfile
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
MAPPED = ["agents", "envs"]  # folders at the top that install as ebrl.agents and ebrl.envs
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


@event_priority(100)  # before mkdocstrings reads its paths
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let mkdocstrings find every package where it installs, in a copy of the sources."""
    tree = Path(tempfile.mkdtemp(prefix="ebrl-docs-"))
    atexit.register(shutil.rmtree, tree, ignore_errors=True)
    only_sources = shutil.ignore_patterns("weights", "__pycache__")
    shutil.copytree(ROOT / "ebrl", tree / "ebrl", ignore=only_sources)
    for name in MAPPED:
        shutil.copytree(ROOT / name, tree / "ebrl" / name, ignore=only_sources)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [str(tree)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pictures that the benchmarks wrote, so that a page can show them as `NAME.png`."""
    for picture in sorted((ROOT / "benchmarks" / "results").glob("*.png")):
        uri = f"results/{picture.name}"
        files.append(File.generated(config, uri, abs_src_path=str(picture)))
    return files


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write formulas as MathML, which browsers draw themselves."""
    return FORMULA.sub(as_mathml, content)


def as_mathml(match: re.Match[str]) -> str:
    """Return the formula of an `arithmatex` element, a block for a `div`."""
    display = "block" if match[1] == "div" else "inline"
    return convert(html.unescape(match[2]).strip(), display=display)
