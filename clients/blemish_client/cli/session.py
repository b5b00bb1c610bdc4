# SPDX-License-Identifier: Apache-2.0
"""The context of one command: the server's address, the credentials and the consoles."""

from dataclasses import dataclass, field
from typing import Any

import typer
from google.protobuf.message import Message
from rich.console import Console

from blemish_client.cli.failures import Failure
from blemish_client.cli.output import emit
from blemish_client.client import Client
from blemish_client.transport.connection import TIMEOUT_S
from blemish_client.transport.credentials import Credentials
from blemish_client.transport.retry import RetryPolicy

# Wide enough for all tables when the output is not a terminal.
_WIDTH_WITHOUT_TERMINAL = 180


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_WITHOUT_TERMINAL
    return console


@dataclass(frozen=True)
class Session:
    """The settings and consoles that a command uses."""

    server: str
    credentials: Credentials
    out: Console = field(default_factory=_console)
    """Console for results."""
    err: Console = field(default_factory=lambda: _console(stderr=True))
    """Console for progress and notes."""

    @classmethod
    def of(cls, ctx: typer.Context) -> "Session":
        found = ctx.find_object(cls)
        assert found is not None, "app.py creates the session; this is a bug"
        return found

    def client(self, timeout_s: float = TIMEOUT_S, retry_policy: RetryPolicy | None = None) -> Client:
        """Return a client of the server with this timeout per call, in seconds.

        Raises:
            Failure: if a token would be sent in plaintext, or the root certificates cannot be read.
        """
        try:
            return Client(
                self.server,
                timeout_s=timeout_s,
                retry_policy=retry_policy,
                credentials=self.credentials,
            )
        except ValueError as error:
            raise Failure(f"{error} (--tls or --roots)") from error
        except OSError as error:
            raise Failure(str(error)) from error

    def print_result(self, result: Message | dict[str, Any], line: str, *, as_json: bool) -> None:
        """Print a result as JSON, or as a line of text."""
        if as_json:
            emit(result)
        else:
            self.out.print(line, markup=False)
