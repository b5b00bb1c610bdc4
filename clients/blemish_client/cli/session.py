# SPDX-License-Identifier: Apache-2.0
"""What one run of the command line has at hand: the server's address and the two screens."""

from dataclasses import dataclass, field

import typer
from rich.console import Console

from blemish_client.cli.failures import Failure
from blemish_client.client import Client
from blemish_client.transport.connection import TIMEOUT_S
from blemish_client.transport.credentials import Credentials

# Wide enough that no table wraps in a file or a pipe.
_WIDTH_UNSEEN = 180


def _screen(*, stderr: bool = False) -> Console:
    screen = Console(stderr=stderr, highlight=False)
    if not screen.is_terminal:
        screen.width = _WIDTH_UNSEEN
    return screen


@dataclass(frozen=True)
class Session:
    server: str
    credentials: Credentials
    out: Console = field(default_factory=_screen)
    """For what was asked for."""
    err: Console = field(default_factory=lambda: _screen(stderr=True))
    """For progress and complaints."""

    @classmethod
    def of(cls, ctx: typer.Context) -> "Session":
        found = ctx.find_object(cls)
        assert found is not None, "app.py makes the session; this is a bug"
        return found

    def client(self, timeout_s: float = TIMEOUT_S) -> Client:
        """A client of the server, each of whose calls may take so long.

        Raises:
            Failure: if what it is to show cannot be read, or could be by others.
        """
        try:
            return Client(self.server, timeout_s=timeout_s, credentials=self.credentials)
        except ValueError as error:
            raise Failure(f"{error} with --tls or --roots") from error
        except OSError as error:
            raise Failure(str(error)) from error
