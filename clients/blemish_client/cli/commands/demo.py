# SPDX-License-Identifier: Apache-2.0
"""``blemish demo``: train, score and search once on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from blemish_client.cli.extras import UP
from blemish_client.cli.options import Json
from blemish_client.cli.session import Session


def demo(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for pictures and figures.")] = Path(
        "demo-output"
    ),
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Your own images: a category folder in MVTec AD's layout, or a folder of categories. "
            "Without it the demo draws synthetic surfaces.",
        ),
    ] = None,
    categories: Annotated[
        str,
        typer.Option(metavar="NAMES", help="Categories, separated by commas; all of them by default."),
    ] = "",
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the synthetic surfaces and of the training.")
    ] = 0,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New folder that keeps the server's data.")
    ] = None,
    efficientad_minutes: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Time for each training of EfficientAD, in minutes; 0 leaves EfficientAD out.",
            show_default="0.5; 1.5 with --full",
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Train EfficientAD on every category, not on the first alone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start a server, train on some surfaces, score, search, and draw the results.

    Example: blemish demo --data ~/images/leather --output leather-demo
    """
    UP.require()
    from blemish_client.demo.run import Plan, run

    names = tuple(dict.fromkeys(filter(None, (name.strip() for name in categories.split(",")))))
    plan = Plan(output, data, names, seed, keep, efficientad_minutes, full)
    run(plan, Session.of(ctx), as_json=as_json)
