# SPDX-License-Identifier: Apache-2.0
"""Error handling shared by the command lines of the core and the server."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from blemish_core.platform.errors import BlemishError

UNUSABLE_INPUT = 2
"""Exit code of a command whose arguments or files cannot be used."""


@contextmanager
def errors_as_exit_codes() -> Iterator[None]:
    """Turn a domain error into one line on stderr and exit code 2."""
    try:
        yield
    except BlemishError as error:
        fail(str(error))


def fail(reason: str) -> NoReturn:
    """Print the reason on stderr and exit with code 2.

    Raises:
        typer.Exit: always.
    """
    print(f"blemish: {reason}", file=sys.stderr)
    raise typer.Exit(UNUSABLE_INPUT)
