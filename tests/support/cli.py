# SPDX-License-Identifier: Apache-2.0
"""Runs of the command line in tests."""

import json
from collections.abc import Callable
from typing import Any

from typer.testing import CliRunner, Result

from blemish_client.cli.app import app

Run = Callable[..., Result]
"""A function that runs the command line with the given arguments."""


def run_against(target: str) -> Run:
    """Return a function that runs the command line against the server at ``target``."""

    def run(*arguments: Any, stdin: str | None = None) -> Result:
        command = ["--server", target, *map(str, arguments)]
        return CliRunner().invoke(app, command, input=stdin, catch_exceptions=False)

    return run


def json_lines(result: Result) -> list[dict[str, Any]]:
    """Return the JSON objects on stdout."""
    return [json.loads(line) for line in result.stdout.splitlines()]
