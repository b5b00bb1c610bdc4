# SPDX-License-Identifier: Apache-2.0
"""The root of the command line: all commands and the global options."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]  # not in its __all__

from blemish_client.cli.commands import (
    audit,
    completion,
    dataset,
    demo,
    info,
    items,
    items_export,
    jobs,
    labels,
    models,
    review,
    score,
    search,
    stream,
    training,
    watch,
)
from blemish_client.cli.extras import RootCommands
from blemish_client.cli.failures import EXIT_CODES
from blemish_client.cli.session import Session
from blemish_client.transport.credentials import Credentials


def _print_version(requested: bool) -> None:
    if requested:
        try:
            found = version("blemish")
        except PackageNotFoundError:
            found = "(source tree)"
        print(f"blemish {found}")
        raise typer.Exit


# `blemish completion` prints the scripts, in place of options that change files of the user.
completion_init()

app = typer.Typer(
    cls=RootCommands,
    help="Detect defects on surfaces: train on good images, score new images and search past ones.",
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
        typer.Option(
            envvar="BLEMISH_SERVER",
            metavar="ADDRESS",
            help="Address of the server: HOST:PORT, or unix:PATH for a socket on this machine.",
        ),
    ] = "localhost:50051",
    token: Annotated[
        str,
        typer.Option(
            envvar="BLEMISH_TOKEN",
            metavar="TOKEN",
            show_envvar=True,
            help="Access token, if the server requires one. Other users of this machine can see arguments, "
            "but not the variable.",
        ),
    ] = "",
    tls: Annotated[bool, typer.Option("--tls", envvar="BLEMISH_TLS", help="Connect with TLS.")] = False,
    roots: Annotated[
        Path | None,
        typer.Option(
            envvar="BLEMISH_ROOTS",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="PEM file with the root certificates that verify the server; implies --tls.",
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
app.command()(watch.watch)
app.command()(search.search)
items.group.command()(items_export.export)
items.group.command("add-to")(items_export.add_to)
app.add_typer(items.group, name="items")
app.command()(labels.label)
app.command()(review.review)
app.command()(labels.summary)
app.command("evaluate-search")(search.evaluate_search)
app.add_typer(jobs.group, name="jobs")
app.command()(jobs.workers)
app.add_typer(models.group, name="models")
app.command()(audit.audit)
app.command()(completion.completion)
