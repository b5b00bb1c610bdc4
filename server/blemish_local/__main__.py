# SPDX-License-Identifier: Apache-2.0
"""``python -m blemish_local up``: the embedded stack without the client's command line."""

import os

import typer

from blemish_core.platform.system import require_linux

require_linux("blemish up")
if "GRPC_VERBOSITY" not in os.environ:
    # Keep gRPC's own log out of the terminal. The services have log files and do not inherit this.
    os.putenv("GRPC_VERBOSITY", "NONE")

from blemish_local.commands import app as up  # noqa: E402  # it needs Linux

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(up)


@app.callback()
def _require_command() -> None:
    """Run the embedded stack."""


if __name__ == "__main__":
    app(prog_name="blemish")
