# SPDX-License-Identifier: Apache-2.0
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blemish_client.cli.app import app
from blemish_client.cli.extras import ACCESS, CONSOLE, EXTRAS, UP, WEIGHTS, Extra, ExtraCommand
from blemish_client.cli.failures import Failure


def run_module(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, check=False)


def test_help_lists_commands_of_extras_without_importing_them() -> None:
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from blemish_client.cli.app import app\n"
        "print(CliRunner().invoke(app, ['--help']).stdout)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    help_text, _, modules = run_module("-c", script).stdout.strip().rpartition("\n")
    for extra in EXTRAS:
        assert extra.help in " ".join(help_text.replace("│", " ").split())
    assert not {"torch", "blemish_core", "blemish_local", "blemish_server", "nicegui"} & {*modules.split()}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["up", "--help"], "--address-file"),
        (["console", "--help"], "--root-path"),
        (["weights", "import", "--help"], "state dict"),
        (["access", "grant", "--help"], "--most-urgent"),
    ],
)
def test_command_of_an_extra_shows_its_own_help_with_an_example(arguments: list[str], text: str) -> None:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert text in result.stdout
    assert f"Example: blemish {arguments[0]}" in result.stdout


@pytest.mark.parametrize("extra", EXTRAS, ids=lambda extra: extra.name)
def test_help_of_every_command_of_an_extra_has_a_valid_example(extra: Extra) -> None:
    loaded = ExtraCommand(extra).load()
    found = getattr(loaded, "commands", {"": loaded})
    for name, command in found.items():
        example = re.search(r"^\s*Example: blemish (.*)$", command.help, re.MULTILINE)
        assert example, f"blemish {extra.name} {name} has no example"
        path = [extra.name, name] if name else [extra.name]
        words = shlex.split(example[1])
        assert words[: len(path)] == path
        command.make_context(path[-1], words[len(path) :])
        shown = CliRunner().invoke(app, [*path, "--help"], catch_exceptions=False).stdout
        assert re.findall(r"--[a-z-]*…", shown) == []


def test_exit_code_of_a_command_of_an_extra_is_kept() -> None:
    result = CliRunner().invoke(app, ["up", "--listen", "nowhere"], catch_exceptions=False)
    assert result.exit_code == 2
    assert "blemish up: 'nowhere' is not HOST:PORT" in result.stderr


@pytest.mark.parametrize(
    ("extra", "name"), [(UP, "local"), (CONSOLE, "console"), (WEIGHTS, "worker"), (ACCESS, "server")]
)
def test_missing_packages_are_reported_with_the_pip_command(extra: Extra, name: str) -> None:
    command = ExtraCommand(replace(extra, requires=("no_such_module",)))
    with pytest.raises(Failure, match=rf"pip install 'blemish\[{name}\]'"):
        command.make_context(extra.name, [])


def test_files_of_the_working_directory_shadow_no_module(tmp_path: Path) -> None:
    for name in ("redis", "structlog", "typer"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')")
    result = run_module("-m", "blemish_client.cli", "up", "--listen", "nowhere", cwd=tmp_path)
    assert result.returncode == 2
    assert "'nowhere' is not HOST:PORT" in result.stderr
