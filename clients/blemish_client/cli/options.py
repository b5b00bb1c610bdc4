# SPDX-License-Identifier: Apache-2.0
"""Options and arguments that several commands take."""

from typing import Annotated

import typer

Json = Annotated[
    bool, typer.Option("--json", help="Print JSON on stdout, one object a line where there are many.")
]
Detach = Annotated[bool, typer.Option("--detach", help="Print the job's name and return; the job goes on.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", metavar="MODEL", help="tile-patchcore, tile-patchcore@production or m/3."
    ),
]
