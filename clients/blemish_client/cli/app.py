# SPDX-License-Identifier: Apache-2.0
"""All commands, and the options they share."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from blemish_client.cli.commands import (
    dataset,
    demo,
    info,
    jobs,
    models,
    score,
    search,
    stream,
    training,
)
from blemish_client.cli.extras import RootCommands
from blemish_client.cli.failures import EXIT_CODES
from blemish_client.cli.session import Session
from blemish_client.transport.credentials import Credentials


def _print_version(asked: bool) -> None:
    if asked:
        try:
            found = version("blemish")
        except PackageNotFoundError:
            found = "from a source tree"
        print(f"blemish {found}")
        raise typer.Exit


app = typer.Typer(
    cls=RootCommands,
    help="Find blemishes on surfaces: train on good images, score new ones, search past ones.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def session(
    ctx: typer.Context,
    server: Annotated[
        str,
        typer.Option(envvar="BLEMISH_SERVER", metavar="HOST:PORT", help="The server to talk to."),
    ] = "localhost:50051",
    token: Annotated[
        str,
        typer.Option(
            envvar="BLEMISH_TOKEN",
            metavar="TOKEN",
            show_envvar=True,
            help="Who calls, if the server asks. Others on this machine see arguments, not the variable.",
        ),
    ] = "",
    tls: Annotated[
        bool, typer.Option("--tls", envvar="BLEMISH_TLS", help="The server speaks TLS.")
    ] = False,
    roots: Annotated[
        Path | None,
        typer.Option(
            envvar="BLEMISH_ROOTS",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="PEM certificates that vouch for the server's; TLS then.",
        ),
    ] = None,
    print_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    ctx.obj = Session(server, Credentials(token, tls, roots))


app.command()(demo.demo)
app.command()(info.info)
app.add_typer(dataset.group, name="dataset")
app.command()(training.train)
app.command()(training.evaluate)
app.command()(training.index)
app.command()(score.score)
app.command()(stream.stream)
app.command()(search.search)
app.command()(search.items)
app.command()(search.label)
app.command("evaluate-search")(search.evaluate_search)
app.add_typer(jobs.group, name="jobs")
app.command()(jobs.workers)
app.add_typer(models.group, name="models")
