# SPDX-License-Identifier: Apache-2.0
"""``blemish models``: list, read, promote, calibrate, carry and delete what training made."""

import getpass
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from blemish.v1 import model_pb2
from blemish.v1.model_pb2 import Calibration, ModelVersion, ShadowComparison
from blemish_client.cli.failures import Failure, make_sure
from blemish_client.cli.figures import metrics_tables
from blemish_client.cli.options import Json, Yes
from blemish_client.cli.output import ABSENT, emit, number, optional, share, size, table, when
from blemish_client.cli.session import Session
from blemish_client.names import model_name, short

group = typer.Typer(
    help="List, show, try out, promote, calibrate, carry and delete models.", invoke_without_command=True
)

_MOST_SHOWN = 10  # disagreements; --json has all that there are

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
                    "production" if version.production else "shadow" if version.shadow else "",
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
def pin(
    ctx: typer.Context,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="For example tile/3.")],
    off: Annotated[bool, typer.Option("--off", help="Pin it no longer.")] = False,
    as_json: Json = False,
) -> None:
    """Have a version kept when workers remove old ones (BLEMISH_KEEP_VERSIONS)."""
    session = Session.of(ctx)
    with session.client() as client:
        card = client.pin(version, not off)
    if as_json:
        emit(card)
    else:
        session.out.print(f"{card.name} is {'pinned' if card.pinned else 'not pinned'}", markup=False)


@group.command()
def shadow(
    ctx: typer.Context,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="For example tile/3.")],
    off: Annotated[bool, typer.Option("--off", help="No longer.")] = False,
    as_json: Json = False,
) -> None:
    """Have a version judge beside the one in production without a say; `show` tells how they agree."""
    session = Session.of(ctx)
    with session.client() as client:
        card = client.shadow(version, not off)
    if as_json:
        emit(card)
    elif card.shadow:
        session.out.print(f"{card.name} judges beside the version in production", markup=False)
    else:
        session.out.print(f"{card.name} is no shadow", markup=False)


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
def delete(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="NAME", help="A version, m/3, or a model with all its versions, m.")
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Of a model: also if a version of it is in production.")
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove a version or a model for good: bundle, reports, index, labels."""
    session = Session.of(ctx)
    make_sure(f"Remove {model_name(model)} for good?", yes)
    with session.client() as client:
        client.delete_model(model, force=force)
    if as_json:
        emit({"removed": model_name(model)})
    else:
        session.out.print(f"{model_name(model)} is gone", markup=False)


@group.command()
def export(
    ctx: typer.Context,
    model: ModelArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="MODEL-N.blemish if not given."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a version into one file, for another server: with its report and calibrations."""
    session = Session.of(ctx)
    with session.client() as client:
        # An alias is looked up once, here.
        version = client.model(model).name
        file = output or Path(f"{short(version).replace('/', '-')}.blemish")
        try:
            with _travelling(session, f"export {short(version)}") as on_bytes:
                client.export_model(version, file, on_bytes=on_bytes)
        except OSError as error:
            raise Failure(f"cannot write {file}: {error.strerror}") from error
    if as_json:
        emit({"model": version, "file": str(file), "size_bytes": file.stat().st_size})
    else:
        session.out.print(f"{version} is in {file}, {size(file.stat().st_size)}", markup=False)


@group.command("import")
def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="That `blemish models export` wrote.")],
    model_id: Annotated[
        str, typer.Option("--as", metavar="MODEL", help="Its id here; as it was called there if not given.")
    ] = "",
    promote: Annotated[bool, typer.Option("--promote", help="Make it the production version.")] = False,
    as_json: Json = False,
) -> None:
    """Take in a version that another server exported, after checking that it runs here."""
    session = Session.of(ctx)
    with session.client() as client:
        try:
            with _travelling(session, f"import {file.name}", "it is tried out there") as on_bytes:
                version = client.import_model(file, model_id=short(model_id), on_bytes=on_bytes)
        except OSError as error:
            raise Failure(f"cannot read {file}: {error.strerror}") from error
        if promote:
            version = client.promote(version.name)
    if as_json:
        emit(version)
        return
    promoted = ", in production" if version.production else ""
    session.out.print(f"{version.name} is there{promoted}", markup=False)


@contextmanager
def _travelling(session: Session, what: str, then: str = "") -> Iterator[Callable[[int, int], None]]:
    """Show how many bytes went, and of how many, as what is yielded is told; ``then`` when all have."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=session.err) as progress:
        bar = progress.add_task(what, total=None)

        def on_bytes(done: int, total: int) -> None:
            said = f"{what}: {then}" if then and done == total else what
            progress.update(bar, description=said, completed=done, total=total)

        yield on_bytes


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


@group.command()
def calibrate(
    ctx: typer.Context,
    model: ModelArgument,
    false_reject_rate: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Share of good images that may be rejected, above 0, at most 0.5."
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="A fixed threshold, in units of the version's scores.")
    ] = None,
    trained: Annotated[bool, typer.Option("--trained", help="Back to what training left.")] = False,
    comment: Annotated[str, typer.Option(help="Why; kept in the history.")] = "",
    author: Annotated[str | None, typer.Option(help="Who; this system's user if not given.")] = None,
    expected_revision: Annotated[
        int, typer.Option(metavar="N", help="Change nothing if somebody else has meanwhile.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Change the threshold of one version, from the next frame on."""
    if (false_reject_rate is not None) + (threshold is not None) + trained != 1:
        raise Failure("say one of --false-reject-rate, --threshold and --trained")
    session = Session.of(ctx)
    with session.client() as client:
        # The server wants a version: an alias is looked up once, here.
        before = client.model(model)
        changed = client.update_calibration(
            before.name,
            author=author if author is not None else _user(),
            target_false_reject_rate=false_reject_rate,
            threshold=threshold,
            trained=trained,
            comment=comment,
            expected_revision=expected_revision,
        )
    if as_json:
        emit(changed)
        return
    now = changed.calibration
    session.out.print(
        f"{changed.name}: threshold {number(before.calibration.threshold)} -> {number(now.threshold)}, "
        f"{_rule(now)}; revision {now.revision}",
        markup=False,
    )
    session.out.print(
        f"{now.held_out_images} held-out good images warrant {share(now.warranted_false_reject_rate)} "
        f"false rejects on average; with 90 % confidence this threshold makes {_interval(now)}",
        markup=False,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:  # no user has this process's id; KeyError before Python 3.13
        raise Failure("this process has no user name; say who you are with --author") from error


def _rule(calibration: Calibration) -> str:
    match calibration.rule:
        case model_pb2.THRESHOLD_RULE_FIXED:
            return "fixed by a person"
        case model_pb2.THRESHOLD_RULE_FALSE_REJECT_RATE:
            return f"{share(calibration.target_false_reject_rate)} false rejects asked for"
        case model_pb2.THRESHOLD_RULE_TRAINED:
            return f"as trained, {share(calibration.target_false_reject_rate)} false rejects asked for"
        case _:
            return ABSENT


def _interval(calibration: Calibration) -> str:
    interval = calibration.false_reject_rate_interval
    return f"{share(interval.lower)} to {share(interval.upper)}"


def _history(version: ModelVersion) -> Table:
    rows = table("revision", "threshold", "how", "when", "who", "why", right=("revision", "threshold"))
    rows.title = "calibrations"
    for calibration in version.calibration_history:
        rows.add_row(
            str(calibration.revision),
            number(calibration.threshold),
            _rule(calibration),
            when(calibration.update_time),
            escape(calibration.author),
            escape(calibration.comment),
        )
    return rows


def _show_comparison(session: Session, of: ShadowComparison) -> None:
    counts = (of.both_normal, of.both_anomalous, of.only_shadow, of.only_production)
    judged = sum(counts)
    columns = ("both normal", "both anomalous", "only this one anomalous", "only production")
    rows = table(*columns, "not judged", right=(*columns, "not judged"))
    rows.title = f"beside {short(of.production)} since {when(of.begin_time)}"
    shares = [f"{count} ({share(count / judged)})" if judged else "0" for count in counts]
    rows.add_row(*shares, str(of.failed))
    session.out.print(rows)
    if not of.disagreements:
        return
    scores = ("score", "threshold", "production's", "its threshold")
    told = table("when", "camera", *scores, "item", title="where they disagree, the newest", right=scores)
    for each in of.disagreements[:_MOST_SHOWN]:
        told.add_row(
            when(each.time),
            escape(each.camera),
            number(each.shadow_score),
            number(each.shadow_threshold),
            number(each.production_score),
            number(each.production_threshold),
            each.item or ABSENT,
        )
    session.out.print(told)


def _show_card(session: Session, version: ModelVersion) -> None:
    calibration, split = version.calibration, version.split
    card = table("", "", title=version.name)
    card.show_header = False
    for name, value in (
        ("production", "yes" if version.production else "no"),
        ("pinned", "yes" if version.pinned else "no"),
        ("shadow", "yes" if version.shadow else "no"),
        ("detector", version.detector),
        *((f"  {name}", value) for name, value in sorted(version.settings.items())),
        ("seed", str(version.seed)),
        *sorted(version.training.items()),
        ("category", version.category),
        ("dataset", f"{short(version.dataset)}, snapshot {version.dataset_snapshot[:12]}"),
        ("learned from", f"{split.learned} images; calibrated on {split.held_out}, {split.method}"),
        ("threshold", f"{number(calibration.threshold)}; {_rule(calibration)}"),
        ("  in maps", number(calibration.pixel_threshold)),
        (
            "  held-out images",
            f"{calibration.held_out_above} of {calibration.held_out_images} above",
        ),
        ("  false rejects", f"{share(calibration.warranted_false_reject_rate)} warranted on average"),
        ("", f"{_interval(calibration)} by this threshold, with 90 % confidence"),
        (
            "  revision",
            f"{calibration.revision}, {when(calibration.update_time)} by {escape(calibration.author)}",
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
    if len(version.calibration_history) > 1:
        session.out.print(_history(version))
    if version.HasField("comparison"):
        _show_comparison(session, version.comparison)
    if version.HasField("metrics"):
        session.out.print(metrics_tables(version.metrics, f"on {short(version.metrics.dataset)}"))
