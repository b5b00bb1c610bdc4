# SPDX-License-Identifier: Apache-2.0
"""Commands of the optional packages: listed by name, imported when run.

The client must not import the server, the detectors or the embedded stack. The table names the modules,
so that ``blemish --help`` neither needs nor loads them.
"""

import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from typer.core import TyperCommand
from typer.main import get_command

from blemish_client.cli.failures import Commands, Failure


@dataclass(frozen=True)
class Extra:
    """A command that an optional package brings."""

    name: str
    help: str
    module: str
    """Module whose ``app`` is the command, as a Typer application."""
    requires: tuple[str, ...]
    """Packages that come with the extra alone; the other ones are part of every wheel."""
    install_hint: str
    needs_linux: bool = True

    def require(self) -> None:
        """Check that the packages are installed, on a system where they run.

        Raises:
            Failure: naming the system, or the command that installs them.
        """
        if self.needs_linux and sys.platform != "linux":
            raise Failure(
                f"`blemish {self.name}` runs on Linux only, and this system is {sys.platform}; run it in a "
                "container or in WSL, and connect from here with --server"
            )
        if any(find_spec(name) is None for name in self.requires):
            raise Failure(self.install_hint)


UP = Extra(
    "up",
    "Start Redis, Qdrant, a worker, the server and the console on this machine.",
    "blemish_local.commands",
    ("blemish_local", "torch", "celery"),
    "the server is not installed here; get it with: pip install 'blemish[local]'",
)
WEIGHTS = Extra(
    "weights",
    "Import or download network weights for training.",
    "blemish_core.models.commands",
    ("blemish_core", "torch"),
    "detectors are not installed here; get them with: pip install 'blemish[worker]'",
)
ACCESS = Extra(
    "access",
    "Manage the credentials of a server on this machine.",
    "blemish_server.auth.commands",
    ("blemish_core", "pydantic"),
    "the server is not installed here; get it with: pip install 'blemish[server]'",
)
CONSOLE = Extra(
    "console",
    "Serve the console for browsers: review, models and state of the server.",
    "blemish_console.commands",
    ("nicegui",),
    "the console is not installed here; get it with: pip install 'blemish[console]'",
    needs_linux=False,
)
EXTRAS = (UP, CONSOLE, WEIGHTS, ACCESS)


class ExtraCommand(TyperCommand):
    """A placeholder that becomes the real command when it is run."""

    def __init__(self, extra: Extra) -> None:
        super().__init__(extra.name, help=extra.help)
        self._extra = extra

    def load(self) -> Any:
        """Import and return the real command.

        Raises:
            Failure: if its packages are not installed.
        """
        self._extra.require()
        return get_command(import_module(self._extra.module).app)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return self.load().make_context(info_name, args, parent, **extra)


class RootCommands(Commands):
    """The top-level commands: those of the extras first, then the client's own."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {extra.name: ExtraCommand(extra) for extra in EXTRAS} | dict(self.commands)
