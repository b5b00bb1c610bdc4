# SPDX-License-Identifier: Apache-2.0
"""Write docs/reference/ from the code: ``python docs/generate.py``, or with ``--check`` compare it.

The command line comes from the Typer application, the settings from their classes, and the errors from the
core's error classes, the table of statuses and the client's classes.
"""

import ast
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import AliasChoices
from pydantic_settings import BaseSettings
from typer.main import get_command

from blemish_client import errors as client_errors
from blemish_client.cli.app import app
from blemish_core.settings import StackSettings
from blemish_server.settings import ServerSettings
from blemish_server.transport.status import STATUS_OF_ERROR
from blemish_workers.settings import WorkerSettings

REFERENCE = Path(__file__).parent / "reference"
_GENERATED = "<!-- Written by docs/generate.py; change the code instead and run `make docs`. -->\n\n"
_HEADER = "| argument or option | meaning | notes |\n|---|---|---|"
_BRACKETS = re.compile(r"\s*\[(?P<notes>(?:env var|default|required|[^\]]*[<>]=?)[^\]]*)\]$")


def main() -> int:
    """Write or check the pages; return 1 if one was stale."""
    pages = {"cli.md": cli(), "configuration.md": configuration(), "errors.md": error_table()}
    if sys.argv[1:] != ["--check"]:
        REFERENCE.mkdir(exist_ok=True)
        for name, text in pages.items():
            (REFERENCE / name).write_text(text)
        return 0
    stale = [
        name
        for name, text in pages.items()
        if not (REFERENCE / name).exists() or (REFERENCE / name).read_text() != text
    ]
    for name in stale:
        print(f"docs/reference/{name} is stale; run `make docs`", file=sys.stderr)
    return 1 if stale else 0


# The command line


def cli() -> str:
    """Return the page of all commands."""
    root: Any = get_command(app)
    context = root.context_class(root, info_name="blemish")
    parts = [
        "# Command line\n",
        _GENERATED.rstrip() + "\n",
        f"{root.help}\n",
        "`blemish COMMAND --help` shows the same texts.\n",
    ]
    parts += _parameters(root, context)
    parts += _epilog(root.epilog)
    for command, inner in _commands(root, context):
        parts += _command(command, inner, root.epilog)
    return "\n".join(parts).rstrip() + "\n"


def commands() -> dict[str, set[str]]:
    """Return the options of every command, by its full name."""
    root: Any = get_command(app)
    context = root.context_class(root, info_name="blemish")
    found = {"blemish": _options(root)}
    for command, inner in _commands(root, context):
        found[inner.command_path] = _options(command)
    return found


def _options(command: Any) -> set[str]:
    options = {"-h", "--help"}
    for parameter in command.params:
        options |= {*parameter.opts, *parameter.secondary_opts}
    return options


def _commands(group: Any, context: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each command below a group, with its context."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if hasattr(command, "load"):
            command = command.load()
        if command.hidden:
            continue
        inner = command.context_class(command, info_name=name, parent=context)
        yield command, inner
        if hasattr(command, "list_commands"):
            yield from _commands(command, inner)


def _command(command: Any, context: Any, root_epilog: str | None) -> list[str]:
    usage = " ".join([_path(context), *command.collect_usage_pieces(context)])
    parts = [f"## {_path(context)}\n", *_prose(command.help), f"```text\n{usage}\n```\n"]
    parts += _parameters(command, context)
    if command.epilog != root_epilog:
        parts += _epilog(command.epilog)
    return parts


def _path(context: Any) -> str:
    names: list[str] = []
    while context is not None:
        names.insert(0, context.info_name)
        context = context.parent
    return " ".join(names)


def _parameters(command: Any, context: Any) -> list[str]:
    """Return a table of the parameters, and one of each group of options."""
    groups: dict[str, list[str]] = {"": []}
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is None or parameter.name == "help":
            continue
        name, text = record
        notes = ""
        if found := _BRACKETS.search(text):
            text, notes = text[: found.start()], found["notes"]
        group = getattr(parameter, "rich_help_panel", None) or ""
        groups.setdefault(group, []).append(f"| `{_cell(name)}` | {_cell(text)} | {_cell(_notes(notes))} |")
    parts = []
    for group, rows in groups.items():
        if rows:
            parts += [*([f"{group}:\n"] if group else []), _HEADER, *rows, ""]
    return parts


def _notes(text: str) -> str:
    """Return the notes without defaults that mean that nothing was given."""
    notes = re.split(r"; (?![^(]*\))", text)  # words of a default may contain the separator
    kept = [note for note in notes if note not in ("default: False", "default: (dynamic)")]
    return "; ".join(re.sub(r"^(env var|default): (.+)$", _value, note) for note in kept)


def _value(found: re.Match[str]) -> str:
    """Return a note with its value as code, or as words where Typer shows words in parentheses."""
    value = found[2].strip("()") if found[2].startswith("(") else found[2]
    return f"{found[1]}: {value if ' ' in value else f'`{value}`'}"


def _epilog(text: str | None) -> list[str]:
    return _prose(text) if text else []


def _prose(help_text: str | None) -> list[str]:
    """Return help text as Markdown: lines with a command become a code block, variables a list."""
    parts: list[str] = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc((help_text or "").replace("\b", ""))):
        words, code = [], []
        for line in paragraph.split("\n"):
            stripped = line.strip()
            if found := re.match(r"Examples?: (.*)", stripped):
                stripped = found[1]
                words.append("Example:")
            if re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*blemish(?: [-a-z./]|$)", stripped):
                code.append(stripped.removeprefix("$ "))
            elif stripped:
                words.append(re.sub(r"^([A-Z]+_[A-Z_]+): ", r"- `\1`: ", stripped))
        text = " ".join(words)
        if found := re.fullmatch(r"Exit codes: (.*?)\.( .*)?", text):
            codes = "\n".join(f"- {each}" for each in found[1].split("; "))
            parts.append(f"Exit codes:\n\n{codes}\n")
            text = (found[2] or "").strip()
        if text:
            parts.append(f"{text}\n")
        if code:
            parts.append("```sh\n" + "\n".join(code) + "\n```\n")
    return parts


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|").replace("``", "`")


# The settings


def configuration() -> str:
    """Return the page of all environment variables."""
    shared = set(StackSettings.model_fields)
    return "\n".join(
        [
            "# Configuration\n",
            _GENERATED.rstrip() + "\n",
            "All settings are environment variables. `blemish up` passes its environment to the server and",
            "the worker, so it accepts the same variables. Folders in a list are separated as in `PATH`.\n",
            "## Server and worker\n",
            *_settings(StackSettings, set(StackSettings.model_fields)),
            "## Server\n",
            *_settings(ServerSettings, set(ServerSettings.model_fields) - shared),
            "## Worker\n",
            *_settings(WorkerSettings, set(WorkerSettings.model_fields) - shared),
            "## Command line and client\n",
            *_client_variables(),
        ]
    )


def _settings(kind: type[BaseSettings], names: set[str]) -> list[str]:
    meanings = docstrings(kind)
    rows = ["| variable | default | meaning |\n|---|---|---|"]
    for name, field in kind.model_fields.items():
        if name not in names:
            continue
        default = _default(name, field.get_default(call_default_factory=True))
        meaning = re.sub(
            r"``(\w+)``",
            lambda found: f"`{variable(kind, found[1]) if found[1] in kind.model_fields else found[1]}`",
            meanings[name],
        )
        rows.append(f"| `{variable(kind, name)}` | {default} | {_cell(meaning)} |")
    return [*rows, ""]


def variable(kind: type[BaseSettings], name: str) -> str:
    """Return the environment variable of a field."""
    alias = kind.model_fields[name].validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"BLEMISH_{name.upper()}"


def _default(name: str, value: object) -> str:
    if value is None or value in ("", ()):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int) and "bytes" in name and value:
        for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
            if value % size == 0:
                return f"`{value}` ({value // size} {unit})"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{value}`"


def docstrings(kind: type) -> dict[str, str]:
    """Return the docstring below each field of a class.

    Raises:
        KeyError: at the use of a field that has none.
    """
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = str(text.value.value)
    return found


def _client_variables() -> list[str]:
    root: Any = get_command(app)
    rows = [
        f"| `{parameter.envvar}` | `{parameter.opts[0]}` | {_cell(parameter.help)} |"
        for parameter in root.params
        if parameter.envvar
    ]
    return ["| variable | option | meaning |\n|---|---|---|", *rows, ""]


# The errors


def error_table() -> str:
    """Return the page of errors: reason, status, class of the client and meaning."""
    rows = []
    for kind, status in STATUS_OF_ERROR.items():
        client = client_errors.ERROR_BY_CODE[status].__name__
        rows.append(f"| `{kind.reason}` | `{status.name}` | `{client}` | {_meaning(kind)} |")
    classes = sorted({kind.__name__: kind for kind in client_errors.ERROR_BY_CODE.values()}.items())
    return "\n".join(
        [
            "# Errors\n",
            _GENERATED.rstrip() + "\n",
            "Every failed call ends with a gRPC status. Its details carry a `google.rpc.ErrorInfo` with",
            "the domain `blemish` and a `reason`. `BadRequest` names the field at fault, and `RetryInfo`",
            "gives the time after which a retry makes sense. A frame of a stream fails alone, with the",
            "same code and reason in its `FrameRefusal`. The client raises a class of",
            "`blemish_client.errors` for each status.\n",
            "## Reasons\n",
            "| reason | status | client exception | meaning |\n|---|---|---|---|",
            *rows,
            "",
            "## Client exceptions\n",
            "| exception | meaning |\n|---|---|",
            *(f"| `{name}` | {_meaning(kind)} |" for name, kind in classes),
            "",
        ]
    )


def _meaning(kind: type) -> str:
    return _cell((inspect.getdoc(kind) or "").split("\n\n")[0])


if __name__ == "__main__":
    # Settings of the shell that runs this must not show as defaults.
    for name in [name for name in os.environ if name.startswith(("BLEMISH_", "REDIS_", "QDRANT_"))]:
        del os.environ[name]
    sys.exit(main())
