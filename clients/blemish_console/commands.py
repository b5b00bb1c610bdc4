# SPDX-License-Identifier: Apache-2.0
"""``blemish console``: serve the console for browsers."""

import asyncio
import ipaddress
import logging
import os
import re
import socket
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from blemish_client.cli.failures import Failure
from blemish_client.cli.session import Session
from blemish_client.transport.target import is_on_this_machine

DEFAULT_LISTEN = "127.0.0.1:8080"

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def console(
    ctx: typer.Context,
    server: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Address of the server.", show_default="as for all commands"),
    ] = "",
    tls: Annotated[bool, typer.Option("--tls", help="Connect to the server with TLS.")] = False,
    roots: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="PEM file with the root certificates that verify the server; implies --tls.",
            show_default=False,
        ),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Address for browsers; port 0 picks a free port. Other machines reach 0.0.0.0, "
            "but not the default.",
        ),
    ] = DEFAULT_LISTEN,
    certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="PEM file with the certificate chain for https; needs --key.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="PEM file with the private key of --certificate.",
            show_default=False,
        ),
    ] = None,
    root_path: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="Path below which a reverse proxy serves the console, such as /blemish.",
            show_default=False,
        ),
    ] = "",
    origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Origin under which browsers open the console, if it is not a name or address of this "
            "machine: https://line.example.com. May be repeated.",
            show_default=False,
        ),
    ] = None,
    session_hours: Annotated[
        float, typer.Option(min=0.001, max=720, help="Time from a sign-in to the next one, in hours.")
    ] = 12.0,
    address_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the URL of the console to this file once it is ready.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve the console for browsers: cameras live, review, trainings, models and state of the server.

    It asks each person for a token if the server has an access file. The token of this command line is not
    used.

    Example: blemish console --server localhost:50051 --listen 127.0.0.1:8080
    """
    from blemish_console.app import ConsoleOptions, serve
    from blemish_console.security import OriginPolicy
    from blemish_console.session import Server

    session = Session.of(ctx)
    host, port = _parse_listen(listen)
    if (certificate is None) != (key is None):
        raise Failure("--certificate and --key belong together; give both or neither")
    try:
        OriginPolicy(origin or ())
    except ValueError as error:
        raise Failure(f"{error} (--origin)") from error
    credentials = session.credentials
    options = ConsoleOptions(
        server=Server(server or session.server, tls or credentials.tls, roots or credentials.roots),
        host=host,
        port=port or _free_port(host),
        root_path=_parse_root_path(root_path),
        origins=tuple(origin or ()),
        certificate=certificate,
        key=key,
        session_hours=session_hours,
    )
    _configure_log()
    if not is_on_this_machine(host) or _is_wildcard(host):
        _warn_if_open(is_encrypted=certificate is not None)

    def announce(url: str) -> None:
        session.err.print(f"the console is at {url}", markup=False, soft_wrap=True)
        if address_file is not None:
            _write(address_file, url)

    try:
        is_started = asyncio.run(serve(options, announce))
    except OSError as error:
        raise Failure(
            f"cannot listen on {listen} ({error.strerror or error}); choose another address"
        ) from (error)
    if not is_started:
        raise Failure(f"cannot listen on {listen}; choose another address, or let one be found with port 0")


def _parse_listen(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port is None or parts.path or "@" in text:
        raise Failure(f"{text!r} is not HOST:PORT; give an address such as {DEFAULT_LISTEN} (--listen)")
    return host, port


def _free_port(host: str) -> int:
    """Return a free port, because the name of the cookie has it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise Failure(f"cannot listen on {host} ({error.strerror}); choose another address") from error


def _parse_root_path(text: str) -> str:
    path = text.rstrip("/")
    if path and not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", path):
        raise Failure(f"{text!r} is not a path; give one such as /blemish (--root-path)")
    return path


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _warn_if_open(*, is_encrypted: bool) -> None:
    if not is_encrypted:
        print(
            "blemish: other machines reach the console without TLS, so tokens can be read on the way; give "
            "--certificate and --key, or put a reverse proxy with TLS in front",
            file=sys.stderr,
        )


def _configure_log() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    logging.getLogger("blemish_console").setLevel(logging.INFO)


def _write(path: Path, url: str) -> None:
    """Write the file in one step, so that a reader never sees half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(url)
    draft.replace(path)
