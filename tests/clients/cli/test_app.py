# SPDX-License-Identifier: Apache-2.0
import re
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.cli import Run, json_lines
from typer.main import get_command
from typer.testing import CliRunner

from blemish.v1.job_pb2 import EfficientAd, PatchCore
from blemish_client.cli.__main__ import main
from blemish_client.cli.app import app
from blemish_client.cli.extras import ExtraCommand


@pytest.mark.parametrize(
    ("command", "objects"),
    [
        (["info"], 1),
        (["dataset", "list"], 5),
        (["dataset", "import", "tile", "/data/tile"], 1),
        (["dataset", "images", "tile"], 3),
        (["dataset", "remove", "tile", "train/good/1.png", "--yes"], 1),
        (["dataset", "move", "tile", "train/good/1.png", "--to", "test/crack"], 1),
        (["dataset", "delete", "tile", "--yes"], 1),
        (["models", "delete", "m/1", "--yes"], 1),
        (["models", "import", sys.executable, "--as", "m"], 1),
        (["train", "tile"], 1),
        (["train", "tile", "--detach"], 1),
        (["evaluate", "m", "tile"], 1),
        (["index", "m", "tile", "leather"], 2),
        (["jobs"], 5),
        (["jobs", "list"], 5),
        (["jobs", "watch", "made"], 3),
        (["jobs", "show", "made"], 1),
        (["jobs", "cancel", "made"], 1),
        (["workers"], 1),
        (["models", "pin", "m/1"], 1),
        (["models", "shadow", "m/1"], 1),
        (["models", "shadow", "m/1", "--off"], 1),
        (["models"], 3),
        (["models", "list"], 3),
        (["models", "show", "m"], 1),
        (["models", "promote", "m/1"], 1),
        (["models", "calibrate", "m", "--trained"], 1),
        (["search", "items/7", "-m", "m"], 3),
        (["items", "-m", "m"], 3),
        (["items", "list", "-m", "m"], 3),
    ],
)
def test_json_and_tables(run: Run, command: list[str], objects: int) -> None:
    as_json = run(*command, "--json")
    assert as_json.exit_code == 0, as_json.stderr
    assert len(json_lines(as_json)) == objects
    to_read = run(*command)
    assert to_read.exit_code == 0, to_read.stderr
    assert to_read.stdout.strip()
    assert not to_read.stdout.startswith("{")


def test_usage_errors_and_help(run: Run) -> None:
    assert run("score").exit_code == 2
    assert run("nonsense").exit_code == 2
    assert "Exit codes" in run("--help").stdout
    assert run("--version").stdout.startswith("blemish ")


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        elif not isinstance(command, ExtraCommand):
            yield (*path, name), command


@pytest.mark.parametrize(
    ("path", "command"), [pytest.param(*each, id=" ".join(each[0])) for each in commands(get_command(app))]
)
def test_help_of_every_command_has_a_valid_example(path: tuple[str, ...], command: Any) -> None:
    _, found, example = command.help.partition("Example: blemish ")
    assert found, "no example"
    words = shlex.split(example)
    assert tuple(words[: len(path)]) == path
    command.make_context(path[-1], words[len(path) :])
    without_help = [
        each.name for each in command.params if not (getattr(each, "help", None) or each.hidden)
    ]
    assert without_help == []


@pytest.mark.parametrize("path", [path for path, _ in commands(get_command(app))], ids=" ".join)
def test_help_shows_whole_names_of_options_in_80_columns(run: Run, path: tuple[str, ...]) -> None:
    assert re.findall(r"--[a-z-]*…", run(*path, "--help").stdout) == []


def test_no_default_is_shown_as_0_that_means_another() -> None:
    shown = {
        option.name
        for _, command in commands(get_command(app))
        for option in command.params
        if option.default == 0
        and option.default is not False
        and option.show_default is not False
        # Text is shown in place of a default.
        and not isinstance(option.show_default, str)
    }
    assert shown == {"seed"}, "say in show_default what the server does without the option"


def test_options_of_training_are_grouped_by_detector(run: Run) -> None:
    (train,) = (command for path, command in commands(get_command(app)) if path == ("train",))
    panels = {option.name: option.rich_help_panel for option in train.params}
    patchcore = set(PatchCore.DESCRIPTOR.fields_by_name)
    efficientad = set(EfficientAd.DESCRIPTOR.fields_by_name)
    of_one = {name for name in patchcore ^ efficientad if name in panels}
    for name in of_one:
        detector = "PatchCore" if name in patchcore else "EfficientAD"
        assert panels[name] == f"Options of {detector}", name
    assert len(of_one) >= 9
    assert panels["input_size"] is None, "both detectors have it"
    assert "Options of PatchCore" in run("train", "--help").stdout


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("blemish tra", ["train"]),
        ("blemish models pro", ["promote"]),
        ("blemish train --dete", ["--detector"]),
        ("blemish train --detector eff", ["efficientad"]),
        ("blemish access gr", ["grant"]),
    ],
)
def test_shell_completes_commands_options_and_choices(typed: str, completed: list[str]) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    asked = CliRunner().invoke(
        app, [], prog_name="blemish", env={"_BLEMISH_COMPLETE": "complete_bash", **words}
    )
    assert asked.stdout.split() == completed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_script_of_a_shell(run: Run, shell: str) -> None:
    script = run("completion", shell).stdout
    assert f"_BLEMISH_COMPLETE=complete_{shell}" in script
    assert run("completion", "tcsh").exit_code == 2


def test_missing_typer_is_reported_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "blemish_client.cli.app")
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "pip install 'blemish[cli]'" in capsys.readouterr().err
