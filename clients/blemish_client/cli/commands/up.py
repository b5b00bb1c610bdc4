# SPDX-License-Identifier: Apache-2.0
"""``blemish up``, ``weights`` and ``access``: hand over to what the client itself does not contain."""

import os
import sys
from importlib.util import find_spec

import typer

from blemish_client.cli.failures import Failure

# Our own packages come with every wheel; these come with the extras alone.
_LOCAL = ("blemish_local", "torch", "celery")
_CORE = ("blemish_core", "torch")
_LOCAL_SERVER = ("blemish_core", "pydantic")

PASS_ALL_ON = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}


def up(ctx: typer.Context) -> None:
    """Start Redis, Qdrant, a worker and the server on this machine; `blemish up --help` says how."""
    require_local()
    _become("blemish_local", "up", *ctx.args)


def weights(ctx: typer.Context) -> None:
    """Bring a backbone's weights into the store of this machine: `blemish weights import NAME FILE`."""
    _require(_CORE, "detectors are not installed here; get them with: pip install 'blemish[worker]'")
    _become("blemish_core.models.weights", *ctx.args)


def access(ctx: typer.Context) -> None:
    """Say who may call the server of this machine: `blemish access grant press-7 --role camera`."""
    _require(_LOCAL_SERVER, "the server is not installed here; get it with: pip install 'blemish[server]'")
    _become("blemish_server.auth.access", *ctx.args)


def require_local() -> None:
    """Do nothing if the embedded stack can start.

    Raises:
        Failure: naming the command that installs it.
    """
    _require(_LOCAL, "the server is not installed here; get it with: pip install 'blemish[local]'")


def _require(packages: tuple[str, ...], cure: str) -> None:
    if any(find_spec(name) is None for name in packages):
        raise Failure(cure)


def _become(*module_and_arguments: str) -> None:
    """Run a module in place of this process. -P: files in this folder shadow no module."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", *module_and_arguments])
