# SPDX-License-Identifier: Apache-2.0
"""README stays short, shows a client that works, and leads to every page."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MOST_BYTES = 8_000
MOST_LINES = 150


def test_readme_stays_short() -> None:
    assert len(README.encode()) <= MOST_BYTES
    assert README.count("\n") <= MOST_LINES


def test_client_example_takes_nine_statements_at_most() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.stmt)]) <= 9


def test_readme_links_every_page() -> None:
    linked = set(re.findall(r"\]\((docs/[\w/.-]+\.md)", README))
    assert linked == {str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")}


def test_table_of_figures_is_written_by_its_benchmark() -> None:
    block = README.split("<!-- bench_serving -->\n", 1)[1].split("<!-- /bench_serving -->", 1)[0]
    if "|" in block:
        assert re.search(
            r"^`python -m tests\.benchmarks\.bench_serving.*`, \d{4}-\d\d-\d\d, commit ", block, re.M
        )
    outside = README.replace(block, "")
    assert not re.search(r"\d (?:ms|frames/s)|\d %", outside), "a figure was typed by hand"
