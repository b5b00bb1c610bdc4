# SPDX-License-Identifier: Apache-2.0
"""Pages agree with the code: links, commands, variables, paths, examples and the generated reference."""

import ast
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from tests.benchmarks.report import PAGE

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ]
)
OTHER_VARIABLES = {"BLEMISH_PUBLISH"}
"""Variables of the compose file."""


def generator() -> Any:
    """Import the script that writes the reference."""
    spec = spec_from_file_location("generate_docs", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = generator()
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
each_current_page = pytest.mark.parametrize(
    "page",
    # The changelog names commands and files of the past.
    [page for page in PAGES if page.name != "CHANGELOG.md"],
    ids=lambda page: str(page.relative_to(ROOT)),
)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub forms them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def commands() -> dict[str, set[str]]:
    found: dict[str, set[str]] = generate.commands()
    return found


def shown_commands(page: Path) -> list[str]:
    """Return the ``blemish`` commands in a page's shell examples and code spans."""
    lines = [line for block in blocks(page, "sh") for line in block.split("\n")]
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    lines += re.findall(r"`(blemish [^`]+)`", text)
    found = (re.search(r"(?:^|\s|/)(blemish .+)$", line.split("  #")[0]) for line in lines)
    return [each[1] for each in found if each and not each[1].startswith("blemish =")]


def broken(command: str) -> str:
    """Return what is wrong with a command line; empty if nothing is."""
    words = shlex.split(command.replace("COMMAND", "info"))
    name, options = words[0], []
    for word in words[1:]:
        if word.startswith("-") and len(word) > 1:
            options.append((name, word.partition("=")[0]))
        elif f"{name} {word}" in commands():
            name = f"{name} {word}"
        elif name == "blemish" and not options:
            return f"no command {word!r}"
    for owner, option in options:
        if option not in commands()[owner] | commands()[name]:
            return f"no option {option} of {owner!r}"
    return ""


def test_generated_reference_is_current() -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "docs/generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


@each_page
def test_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@each_current_page
def test_commands_exist(page: Path) -> None:
    wrong = [f"{command}: {fault}" for command in shown_commands(page) if (fault := broken(command))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "command",
    ["blemish fly", "blemish score x.png --wings", "blemish models --wings", "blemish models show m -q"],
)
def test_unknown_command_or_option_is_found(command: str) -> None:
    assert broken(command)


@each_current_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = re.findall(r"`make ([a-z-]+)", page.read_text())
    shown += re.findall(r"^make ([a-z-]+)", "\n".join(blocks(page, "sh")), re.MULTILINE)
    assert set(shown) <= targets


@each_current_page
def test_variables_exist(page: Path) -> None:
    configuration = (ROOT / "docs/reference/configuration.md").read_text()
    known = set(re.findall(r"^\| `([A-Z_]+)` \|", configuration, re.MULTILINE)) | OTHER_VARIABLES
    assert set(re.findall(r"\bBLEMISH_[A-Z_]+\b", page.read_text())) <= known


@each_current_page
def test_paths_exist(page: Path) -> None:
    for path in re.findall(
        r"`((?:core|server|workers|clients|tests|docs|protos|docker)/[^\s`]+)`", page.read_text()
    ):
        assert list(ROOT.glob(path.rstrip("/"))), path
    for module in re.findall(r"python -m ([\w.]+)", page.read_text()):
        assert find_spec(module), module


@each_page
def test_python_examples_parse_and_import_existing_names(page: Path) -> None:
    for example in blocks(page, "python"):
        for node in ast.walk(ast.parse(example)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("blemish"):
                module = import_module(str(node.module))
                for name in node.names:
                    assert hasattr(module, name.name) or find_spec(f"{node.module}.{name.name}"), name.name


def test_every_error_and_setting_is_in_the_reference() -> None:
    for kind in generate.STATUS_OF_ERROR:
        assert f"`{kind.reason}`" in generate.error_table()
    for settings in (generate.ServerSettings, generate.WorkerSettings):
        for field in settings.model_fields:
            assert f"| `{generate.variable(settings, field)}` |" in generate.configuration()


def test_architecture_shows_all_folders_and_packages() -> None:
    picture = blocks(ROOT / "docs/architecture.md", "text")[0]
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    folders = {path.split("/")[0] for path in tracked if "/" in path and not path.startswith(".")}
    assert set(re.findall(r"^([a-z]+)/", picture, re.MULTILINE)) == folders
    packages = {path.name for path in ROOT.glob("*/blemish*") if path.is_dir() and "." not in path.name}
    columns = [line[12:31].strip() for line in picture.split("\n")]
    assert {column for column in columns if column.startswith("blemish")} == packages


def test_sections_of_benchmarks_belong_to_benchmarks() -> None:
    text = PAGE.read_text()
    opened = re.findall(r"<!-- (\w+) -->", text)
    assert opened == re.findall(r"<!-- /(\w+) -->", text) == sorted(set(opened))
    for name in opened:
        section = text.split(f"<!-- {name} -->", 1)[1].split(f"<!-- /{name} -->", 1)[0]
        module = re.search(r"^`python -m ([\w.]+).*`, \d{4}-\d\d-\d\d, commit ", section, re.MULTILINE)
        assert module, name
        assert find_spec(module[1]), module[1]


def test_new_names_of_the_glossary_exist() -> None:
    renamed = (ROOT / "docs/glossary.md").read_text().split("## Renamed", 1)[1]
    new = {
        name
        for row in re.findall(r"^\|.*\|(.*)\|$", renamed, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    files = [
        file for root in ("core", "server", "workers", "clients") for file in (ROOT / root).rglob("*.py")
    ]
    defined = {file.stem for file in files}
    for file in files:
        defined.update(re.findall(r"^(?:class|def) (\w+)", file.read_text(), re.MULTILINE))
    assert new <= defined, new - defined
