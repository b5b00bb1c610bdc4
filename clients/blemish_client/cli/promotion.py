# SPDX-License-Identifier: Apache-2.0
"""Promotion of a version without losing a calibration that a person has set."""

import getpass
from typing import Annotated

import grpc
import typer

from blemish.v1 import model_pb2
from blemish.v1.model_pb2 import Calibration, ModelVersion
from blemish_client.cli.calibrations import judges_by
from blemish_client.cli.failures import UNSUCCESSFUL, Failure, can_ask
from blemish_client.cli.output import number
from blemish_client.cli.session import Session
from blemish_client.client import Client
from blemish_client.errors import CONFIRMATION_NEEDED, BlemishError, FailedPrecondition, NotFound
from blemish_client.names import short

KeepTarget = Annotated[
    bool | None,
    typer.Option(
        "--keep-target/--own-target",
        help="Carry the target false-reject rate and the regions of the version in production over, or use "
        "those of the new version.",
        show_default="ask if a person has set them, else own",
    ),
]
PromoteYes = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Do not ask: the version judges by its own calibration."),
]


def promote_version(
    session: Session,
    client: Client,
    version: str,
    *,
    keep_target: bool | None,
    yes: bool,
    author: str | None = None,
) -> ModelVersion:
    """Promote a version; ask which target it gets if that of the version in production would be lost.

    Raises:
        Failure: if the user declines, or cannot be asked because stdin is not a terminal.
    """
    new = client.model(version)
    replaced = in_production(client, new.name)
    if yes and keep_target is None:
        keep_target = False
    is_question = keep_target is None and replaced is not None and replaced.name != new.name
    if is_question and replaced is not None and can_ask() and _differs(replaced, new):
        keep_target = ask_for_target(replaced, new, _threshold_kept(client, replaced, new))
    try:
        promoted = client.promote(
            version, keep_target=keep_target, author=_author(author) if keep_target else ""
        )
    except FailedPrecondition as error:
        if error.reason != CONFIRMATION_NEEDED:
            raise
        raise Failure(f"{error.message}; or pass --yes to use its own") from error
    if keep_target and not _has_target_of(promoted, replaced):
        raise Failure(
            f"{promoted.name} is in production, but the server is too old to keep the target; set it with "
            "`blemish models calibrate`"
        )
    if replaced is not None and replaced.name != promoted.name:
        session.err.print(
            f"it replaces {replaced.name}, which judged by {judges_by(replaced.calibration)}", markup=False
        )
        if keep_target is None and _differs(replaced, promoted):
            session.err.print(
                f"its target differs; keep that of {short(replaced.name)} with: blemish models calibrate "
                f"{short(promoted.name)} --false-reject-rate {_target(replaced.calibration):.3g}",
                markup=False,
                soft_wrap=True,
            )
    return promoted


def in_production(client: Client, model: str) -> ModelVersion | None:
    """Return the version in production of a model or of a version's model, None if there is none."""
    try:
        return client.model(f"{model.partition('/versions/')[0]}@production")
    except NotFound:
        return None


def is_set_by_person(calibration: Calibration) -> bool:
    """Return whether a person has set the threshold of a calibration."""
    return calibration.rule in (
        model_pb2.THRESHOLD_RULE_FIXED,
        model_pb2.THRESHOLD_RULE_FALSE_REJECT_RATE,
    )


def ask_for_target(
    replaced: ModelVersion, new: ModelVersion | None, kept_threshold: float | None = None
) -> bool:
    """Ask whether a version keeps the target of the one that it replaces.

    Args:
        replaced: version in production.
        new: version to promote, None before its training.
        kept_threshold: threshold to which the target leads on the new version, if it is known.

    Raises:
        Failure: if the user declines to promote.
    """
    before = replaced.calibration
    target = f"{100 * _target(before):.3g} % false rejects"
    if before.rule == model_pb2.THRESHOLD_RULE_FIXED:
        target = f"{target}, as expected of it"
    if kept_threshold is not None:
        target = f"{target}, threshold {number(kept_threshold)}"
    own = f"own target, {judges_by(new.calibration)}" if new is not None else "own target"
    typer.echo(f"{replaced.name} judges by {judges_by(before)}.", err=True)
    typer.echo(f"  keep    carry its target over: {target}", err=True)
    typer.echo(f"  own     {own}", err=True)
    typer.echo("  cancel  promote nothing", err=True)
    answer = ""
    while answer not in ("keep", "own", "cancel"):
        answer = typer.prompt("keep, own or cancel", default="cancel", err=True).strip().lower()
    if answer == "cancel":
        raise Failure("nothing was promoted", UNSUCCESSFUL)
    return answer == "keep"


def _threshold_kept(client: Client, replaced: ModelVersion, new: ModelVersion) -> float | None:
    """Return the threshold to which the target leads on a new version, None if the server is too old."""
    try:
        preview = client.preview_calibration(
            new.name, target_false_reject_rate=_target(replaced.calibration), max_frames=1
        )
    except BlemishError as error:
        if error.code is not grpc.StatusCode.UNIMPLEMENTED:
            raise
        return None
    return preview.after.threshold


def user_name() -> str:
    """Return the name of the current user, as the author of a change.

    Raises:
        Failure: if it has none.
    """
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:  # unknown user id; KeyError before Python 3.13
        raise Failure("the current user has no name; pass --author") from error


def _author(given: str | None) -> str:
    return given if given is not None else user_name()


def _target(calibration: Calibration) -> float:
    """Return the target rate, or the expected rate of a fixed threshold."""
    if calibration.rule == model_pb2.THRESHOLD_RULE_FIXED:
        return min(calibration.warranted_false_reject_rate, 0.5)
    return calibration.target_false_reject_rate


def _differs(replaced: ModelVersion, new: ModelVersion) -> bool:
    """Return whether a new version, calibrated by its training only, has another target or regions."""
    before, after = replaced.calibration, new.calibration
    return after.revision <= 1 and (
        before.rule == model_pb2.THRESHOLD_RULE_FIXED
        or before.target_false_reject_rate != after.target_false_reject_rate
        or before.regions != after.regions
    )


def _has_target_of(promoted: ModelVersion, replaced: ModelVersion | None) -> bool:
    return replaced is None or abs(_target(promoted.calibration) - _target(replaced.calibration)) < 1e-9
