# SPDX-License-Identifier: Apache-2.0
"""``blemish up``: the command line of the embedded stack."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from blemish_local.launching.launch import UNUSABLE, launch
from blemish_local.options import DEFAULT_DATA, DEFAULT_LISTEN, resolve

_EPILOG = f"""\
Environment:

REDIS_URL: external Redis to use instead of starting one.

QDRANT_URL: external Qdrant to use instead of starting one.

QDRANT_GRPC_PORT: gRPC port of that Qdrant (default: 6334).

QDRANT_PROXY: HTTP proxy for that Qdrant (default: none, even if http_proxy is set).

BLEMISH_STORE: folder of datasets and models (default: store/ in the data folder).

BLEMISH_IMPORT_ROOTS: like --import-root; separate several folders with "{os.pathsep}".

The server and the worker inherit all other variables unchanged.

Exit codes: 0 stopped; 1 a service failed; 2 wrong usage, or an unusable port or folder.
"""

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(epilog=_EPILOG)
def up(
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for all data of the stack.")
    ] = DEFAULT_DATA,
    listen: Annotated[
        str,
        typer.Option(
            envvar="BLEMISH_LISTEN",
            metavar="ADDRESS",
            help="Address of the server: HOST:PORT, where port 0 picks a free port, or unix:PATH.",
        ),
    ] = DEFAULT_LISTEN,
    import_root: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Folder from which datasets may be imported; repeat the option for several.",
            show_default=False,
        ),
    ] = None,
    address_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the server's address to this file once everything is ready.",
            show_default=False,
        ),
    ] = None,
    stop_with_stdin: Annotated[
        bool,
        typer.Option(
            "--stop-with-stdin",
            help="Stop when standard input ends; for programs that start the stack and may be killed.",
        ),
    ] = False,
    console: Annotated[
        bool,
        typer.Option("--console/--no-console", help="Serve the console for browsers on this machine, too."),
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print warnings only.")] = False,
) -> None:
    """Start Redis, Qdrant, a worker, the server and the console on this machine.

    Example: blemish up --data /srv/blemish --import-root /srv/images
    """
    try:
        options = resolve(
            os.environ,
            data=data,
            listen=listen,
            import_roots=import_root,
            address_file=address_file,
            stop_with_stdin=stop_with_stdin,
            console=console,
            quiet=quiet,
        )
    except ValueError as error:
        print(f"blemish up: {error}", file=sys.stderr)
        raise typer.Exit(UNUSABLE) from error
    raise typer.Exit(launch(options))
