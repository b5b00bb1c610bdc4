# SPDX-License-Identifier: Apache-2.0
"""The common entry of all benchmarks: print a report and keep it as a section of docs/benchmarks.md.

A section lies between ``<!-- NAME -->`` and ``<!-- /NAME -->``. Each run replaces its own section. It names
the command, date, commit and machine, so that no figure in the documentation is typed by hand.
"""

import argparse
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/benchmarks.md"
README = ROOT / "README.md"

# A worker that measures its speed in the background would change what a benchmark measures.
os.environ.setdefault("BLEMISH_MEASURE_RATES", "false")

_SECTION = re.compile(r"<!-- (?P<name>\w+) -->\n.*?<!-- /(?P=name) -->\n", re.DOTALL)


class Report:
    """The report of one run, printed line by line as it is made."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.summary: list[str] = []
        """Lines for the block of the same name in the README; none leaves the README as it is."""

    def write(self, text: str = "") -> None:
        """Print a line and keep it for the page."""
        print(text, flush=True)
        self.lines.append(text)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--no-page", action="store_true", help="print the report only; keep no section")
    return made


def section(name: str, title: str, options: argparse.Namespace) -> AbstractContextManager[Report]:
    """Collect a report as ``page_section`` does, kept unless ``options`` decline the page."""
    return page_section(name, title, keep=not options.no_page)


@contextmanager
def page_section(name: str, title: str, *, keep: bool) -> Iterator[Report]:
    """Collect a report; with ``keep``, make it the section ``name`` of the page if the run ends well."""
    report = Report()
    spec = sys.modules["__main__"].__spec__
    module = spec.name.removesuffix(".__main__") if spec else name
    origin = origin_of(module, sys.argv[1:])
    yield report
    if not keep:
        return
    text = "\n".join(report.lines).strip("\n")
    PAGE.write_text(with_section(PAGE.read_text(), name, f"## {title}\n\n{origin}\n\n{text}\n"))
    if report.summary:
        summary = "\n".join(report.summary).strip("\n")
        README.write_text(with_block(README.read_text(), name, f"{summary}\n\n{origin}\n"))


def origin_of(module: str, arguments: list[str]) -> str:
    """Return one line: the command, and when, at which commit and on which machine it ran."""
    # The folders of one machine mean nothing on another: their names are enough.
    shown = [Path(word).name if Path(word).is_absolute() else word for word in arguments]
    command = shlex.join(["python", "-m", module, *shown])
    day = datetime.now(UTC).date().isoformat()
    return f"`{command}`, {day}, commit {commit()}, {os.cpu_count()} cores ({cpu_model()})."


def commit() -> str:
    """Return the abbreviated commit, marked if code differs from it; "unknown" outside a checkout."""

    def git(*words: str) -> str:
        asked = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return asked.stdout.strip()

    found = git("rev-parse", "--short", "HEAD")
    # Pages change with each benchmark of one run.
    changed = git("status", "--porcelain", "--", ".", ":!docs", ":!README.md")
    return (f"{found} with changes" if changed else found) or "unknown"


def cpu_model() -> str:
    """Return the name of the CPU, as Linux gives it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text() if info.exists() else "", re.MULTILINE)
    return found[1] if found else platform.machine()


def with_section(page: str, name: str, text: str) -> str:
    """Return ``page`` with the section ``name`` replaced or added; sections are sorted by name."""
    sections = {found["name"]: found[0] for found in _SECTION.finditer(page)}
    sections[name] = f"<!-- {name} -->\n{text}<!-- /{name} -->\n"
    head = _SECTION.sub("", page).rstrip("\n")
    return "\n".join([f"{head}\n", *(sections[each] for each in sorted(sections))])


def with_block(page: str, name: str, text: str) -> str:
    """Return ``page`` with the block ``name`` replaced.

    Raises:
        ValueError: the page has no such block.
    """
    block = re.compile(rf"<!-- {name} -->\n.*?<!-- /{name} -->\n", re.DOTALL)
    if not block.search(page):
        raise ValueError(f"no block {name!r} to replace; mark its place with <!-- {name} -->")
    return block.sub(lambda _: f"<!-- {name} -->\n{text}<!-- /{name} -->\n", page, count=1)
