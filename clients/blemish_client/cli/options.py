# SPDX-License-Identifier: Apache-2.0
"""Options and arguments that several commands share."""

from typing import Annotated

import typer

_MODEL_HELP = "Model or version: tile-patchcore, tile-patchcore@production or tile-patchcore/3."

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, one object per line.")]
Detach = Annotated[
    bool, typer.Option("--detach", help="Print the job's name and return without waiting for it.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
FailOnAnomaly = Annotated[
    bool, typer.Option("--fail-on-anomaly", help="Exit with code 1 if any image is anomalous.")
]
ShowDefectClass = Annotated[
    bool,
    typer.Option(
        "--defect-class",
        help="Name the most likely defect class of anomalous images, by the items confirmed with "
        "`blemish label`.",
    ),
]
Model = Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help=_MODEL_HELP)]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL_HELP)]
VersionArgument = Annotated[
    str, typer.Argument(metavar="VERSION", help="Version, for example tile-patchcore/3.")
]
DatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help="Id of the dataset, for example tile.")
]
