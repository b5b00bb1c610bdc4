# SPDX-License-Identifier: Apache-2.0
"""``blemish up``: hand over to the embedded stack, if it is installed."""

import os
import sys
from importlib.util import find_spec

import typer

from blemish_client.cli.failures import Failure

# Our own packages come with every wheel; these come with the extra alone.
_NEEDED = ("blemish_local", "torch", "celery")

PASS_ALL_ON = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}


def up(ctx: typer.Context) -> None:
    """Start Redis, Qdrant, a worker and the server on this machine; `blemish up --help` says how."""
    require_local()
    sys.stdout.flush()
    command = [sys.executable, "-m", "blemish_local", "up", *ctx.args]
    os.execv(sys.executable, command)


def require_local() -> None:
    """Do nothing if the embedded stack can start.

    Raises:
        Failure: naming the command that installs it.
    """
    if any(find_spec(name) is None for name in _NEEDED):
        raise Failure("the server is not installed here; get it with: pip install 'blemish[local]'")
