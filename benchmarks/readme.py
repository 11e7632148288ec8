"""Put the tables of benchmarks/results into the README, between their markers.

    python benchmarks/readme.py

A table NAME lies between `<!-- table NAME -->` and `<!-- end -->`; it is results/NAME.md.
"""

from __future__ import annotations

import re
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
TABLE = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(match: re.Match[str]) -> str:
    return f"{match[1]}{(RESULTS / f'{match[2]}.md').read_text()}{match[3]}"


if __name__ == "__main__":
    README.write_text(TABLE.sub(filled, README.read_text()))
