# SPDX-License-Identifier: Apache-2.0
"""Options and arguments that several commands share."""

from typing import Annotated

import typer

from blemish_client.cli.choices import ItemLabelChoice, VerdictChoice
from blemish_client.cli.times import AGE_HELP

_MODEL_HELP = "Model or version: tile-patchcore, tile-patchcore@production, tile-patchcore/3 or .../latest."

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
    str, typer.Argument(metavar="VERSION", help="Version: tile-patchcore/3 or tile-patchcore/latest.")
]
DatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help="Id of the dataset, for example tile.")
]

WhereItems = Annotated[
    str,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Filter condition: label = false-alarm AND camera = line-3",
    ),
]
Cameras = Annotated[
    list[str] | None,
    typer.Option("--camera", metavar="CAMERA", help="Only frames of this camera. May be repeated."),
]
Since = Annotated[
    str,
    typer.Option(
        "--since", metavar="TIME", help=f"Only images since then: {AGE_HELP}, the last time it was 08:00."
    ),
]
Until = Annotated[
    str, typer.Option("--until", metavar="TIME", help="Only images before then, written as for --since.")
]
ItemVerdict = Annotated[
    VerdictChoice | None, typer.Option("--verdict", help="Only images of this verdict.")
]
ItemLabels = Annotated[
    list[ItemLabelChoice] | None,
    typer.Option("--label", help="Only images with this label, or without one. May be repeated."),
]
