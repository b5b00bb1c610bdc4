# SPDX-License-Identifier: Apache-2.0
"""``blemish models``: list, read and promote what training made."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from blemish.v1.model_pb2 import ModelVersion
from blemish_client.cli.failures import Failure
from blemish_client.cli.figures import metrics_tables
from blemish_client.cli.options import Json
from blemish_client.cli.output import (
    ABSENT,
    emit,
    number,
    optional,
    share,
    size,
    table,
    when,
)
from blemish_client.cli.session import Session
from blemish_client.names import short

group = typer.Typer(help="List, show and promote models.", invoke_without_command=True)

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="tile-patchcore, tile-patchcore@production or m/3.")
]


@group.callback()
def models(ctx: typer.Context, as_json: Json = False) -> None:
    if ctx.invoked_subcommand is None:
        list_(ctx, as_json=as_json)


@group.command("list")
def list_(ctx: typer.Context, as_json: Json = False) -> None:
    """List models and their versions, newest first."""
    session = Session.of(ctx)
    numbers = ("image AUROC", "threshold")
    rows = table("version", "", "dataset", "created", *numbers, right=numbers)
    with session.client() as client:
        for model in client.models():
            if as_json:
                emit(model)
                continue
            for version in model.versions:
                rows.add_row(
                    short(version.name),
                    "production" if version.production else "",
                    short(version.dataset),
                    when(version.create_time),
                    number(optional(version.metrics, "image_auroc")),
                    number(version.calibration.threshold),
                )
    if not as_json:
        session.out.print(rows if rows.row_count else "no models yet: blemish train --help")


@group.command()
def show(ctx: typer.Context, model: ModelArgument, as_json: Json = False) -> None:
    """Show the card of one version."""
    session = Session.of(ctx)
    with session.client() as client:
        version = client.model(model)
    if as_json:
        emit(version)
        return
    _show_card(session, version)


@group.command()
def promote(
    ctx: typer.Context,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="For example m/3.")],
    as_json: Json = False,
) -> None:
    """Make a version the production one; an older one rolls back."""
    session = Session.of(ctx)
    with session.client() as client:
        promoted = client.promote(version)
    if as_json:
        emit(promoted)
    else:
        session.out.print(f"{promoted.name} is in production", markup=False)


@group.command()
def report(
    ctx: typer.Context,
    model: ModelArgument,
    evaluation: Annotated[
        str, typer.Option(metavar="JOB", help="Of an evaluation by this job, not of the training.")
    ] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Stdout if not given.")
    ] = None,
) -> None:
    """Fetch the report of a version's training or evaluation: one HTML page, for any browser."""
    session = Session.of(ctx)
    with session.client() as client:
        page = client.report(model, evaluation=evaluation)
    if output is None:
        sys.stdout.buffer.write(page)
        sys.stdout.buffer.flush()
        return
    try:
        output.write_bytes(page)
    except OSError as error:
        raise Failure(f"cannot write {output}: {error.strerror}") from error
    session.out.print(f"{output} is there, {size(len(page))}", markup=False)


def _show_card(session: Session, version: ModelVersion) -> None:
    calibration, split = version.calibration, version.split
    card = table("", "", title=version.name)
    card.show_header = False
    for name, value in (
        ("production", "yes" if version.production else "no"),
        ("detector", version.detector),
        *((f"  {name}", value) for name, value in sorted(version.settings.items())),
        ("seed", str(version.seed)),
        *sorted(version.training.items()),
        ("category", version.category),
        ("dataset", f"{short(version.dataset)}, snapshot {version.dataset_snapshot[:12]}"),
        ("learned from", f"{split.learned} images; calibrated on {split.held_out}, {split.method}"),
        ("threshold", number(calibration.threshold)),
        ("false rejects asked for", share(calibration.target_false_reject_rate)),
        (
            "false rejects warranted",
            f"{share(calibration.warranted_false_reject_rate)} by {calibration.held_out_images} "
            "held-out images",
        ),
        (
            "best-F1 threshold",
            f"{number(calibration.best_f1_threshold)} (uses labels; to compare)"
            if calibration.HasField("best_f1_threshold")
            else ABSENT,
        ),
        ("created", f"{when(version.create_time)} by {version.job}"),
        ("size", size(version.size_bytes)),
        ("libraries", ", ".join(f"{k} {v}" for k, v in sorted(version.libraries.items()))),
    ):
        card.add_row(name, value)
    session.out.print(card)
    if version.HasField("metrics"):
        session.out.print(metrics_tables(version.metrics, f"on {short(version.metrics.dataset)}"))
