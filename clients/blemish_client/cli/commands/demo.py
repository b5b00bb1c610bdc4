# SPDX-License-Identifier: Apache-2.0
"""``blemish demo``: the whole way once, on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from blemish_client.cli.extras import UP
from blemish_client.cli.options import Json
from blemish_client.cli.session import Session


def demo(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option(metavar="DIR", help="For pictures and figures.")] = Path(
        "demo-output"
    ),
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Your images: a folder laid out as MVTec AD's categories are, or a folder of such. "
            "Synthetic surfaces are drawn unless given.",
        ),
    ] = None,
    categories: Annotated[
        str, typer.Option(metavar="NAMES", help="Separated by commas; tile,leather,grid or all of --data.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the synthetic surfaces and the training.")] = 0,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the server's data here, in a new folder.")
    ] = None,
    efficientad_minutes: Annotated[
        float,
        typer.Option(min=0, help="Time for each training of EfficientAD; 0 leaves it out."),
    ] = 1.5,
    as_json: Json = False,
) -> None:
    """Start a server here, learn some surfaces, score and search them, and draw what was found."""
    UP.require()
    from blemish_client.demo.run import Plan, run

    names = tuple(dict.fromkeys(filter(None, (name.strip() for name in categories.split(",")))))
    run(Plan(output, data, names, seed, keep, efficientad_minutes), Session.of(ctx), as_json=as_json)
