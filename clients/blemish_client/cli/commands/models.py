# SPDX-License-Identifier: Apache-2.0
"""``blemish models``: list, show, promote, calibrate, export, import and delete models."""

import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, TypedDict

import grpc
import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from blemish.v1.dataset_pb2 import Dataset
from blemish.v1.model_pb2 import (
    CompareModelsResponse,
    Interval,
    MetricComparison,
    ModelVersion,
    RegionSettings,
    ShadowComparison,
)
from blemish_client.cli.calibrations import (
    ending,
    interval,
    pixel_rule,
    print_preview,
    threshold_rule,
)
from blemish_client.cli.failures import UNSUCCESSFUL, Failure, can_ask, confirm_deletion
from blemish_client.cli.figures import frame_latency, metrics_tables
from blemish_client.cli.groups import has_subcommand
from blemish_client.cli.options import Json, ModelArgument, VersionArgument, Yes
from blemish_client.cli.output import ABSENT, emit, number, optional, share, size, table, when
from blemish_client.cli.progress import exit_unless_succeeded, wait_for_job
from blemish_client.cli.promotion import KeepTarget, PromoteYes, promote_version, user_name
from blemish_client.cli.session import Session
from blemish_client.cli.times import AGE_HELP, parse_time
from blemish_client.client import Client
from blemish_client.errors import CONFIRMATION_NEEDED, BlemishError, FailedPrecondition
from blemish_client.names import job_name, model_name, short
from blemish_layouts.names import printable

group = typer.Typer(
    help="List, show, promote, calibrate, export, import and delete models.", invoke_without_command=True
)

_COMPARED = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO",
    "detection_rate": "defective images detected",
    "false_reject_rate": "good images rejected",
}
_FINDINGS = {
    "image_auroc": "has the higher image AUROC",
    "detection_rate": "detects more defective images",
    "false_reject_rate": "rejects more good images",
}
_MAX_DISAGREEMENTS = 10
"""Number of disagreements in the text output. JSON has all of them."""
_MAX_FLIPPED = 1000
"""Number of kept frames that a preview asks for."""
_UNSET = ("", "None", "False")
"""Values of settings that a card does not show."""


@group.callback()
def models(ctx: typer.Context, as_json: Json = False) -> None:
    if not has_subcommand(ctx):
        list_(ctx, as_json=as_json)


@group.command("list")
def list_(ctx: typer.Context, as_json: Json = False) -> None:
    """List models and their versions, the newest first.

    Example: blemish models list
    """
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
        session.out.print(rows if rows.row_count else "no models; train one with: blemish train")


@group.command()
def show(ctx: typer.Context, model: ModelArgument, as_json: Json = False) -> None:
    """Show the card of a version: settings, calibration and metrics.

    Example: blemish models show tile-patchcore@production
    """
    session = Session.of(ctx)
    with session.client() as client:
        version = client.model(model)
    if as_json:
        emit(version)
        return
    _print_card(session, version)


@group.command()
def compare(
    ctx: typer.Context,
    first: ModelArgument,
    second: Annotated[str, typer.Argument(metavar="MODEL", help="Model or version to compare with.")],
    dataset: Annotated[
        str,
        typer.Option(
            metavar="DATASET",
            help="Dataset with the test images.",
            show_default="the one on which both were trained",
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Compare two versions on the same test images, at their thresholds in force.

    A version that was not evaluated on the present images of the dataset is evaluated first. Intervals are
    95 % confidence intervals, and those of differences come from draws of the same images for both.

    Example: blemish models compare tile-patchcore/3 tile-patchcore/4
    """
    session = Session.of(ctx)
    with session.client() as client:
        cards = [client.model(first), client.model(second)]
        datasets = {card.dataset for card in cards}
        if not dataset and len(datasets) > 1:
            raise Failure(
                f"the versions were trained on {' and '.join(sorted(map(short, datasets)))}; choose one "
                "with --dataset"
            )
        tested = client.dataset(dataset or cards[0].dataset)
        jobs = [
            client.evaluate(card.name, tested.name)
            for card in {card.name: card for card in cards}.values()
            if not _is_evaluated(card, tested)
        ]
        exit_unless_succeeded([wait_for_job(session, client, job) for job in jobs])
        found = client.compare(cards[0].name, cards[1].name, dataset=tested.name)
    if as_json:
        emit(found)
        return
    _print_model_comparison(session, found)


def _is_evaluated(version: ModelVersion, dataset: Dataset) -> bool:
    """Return whether the card has figures on the present images of a dataset."""
    measured = [evaluation.metrics for evaluation in version.evaluations]
    if version.HasField("metrics"):
        measured.append(version.metrics)
    return any(
        (each.dataset, each.dataset_snapshot) == (dataset.name, dataset.snapshot) for each in measured
    )


def _print_model_comparison(session: Session, found: CompareModelsResponse) -> None:
    first, second = short(found.first.name), short(found.second.name)
    session.out.print(
        f"{first} at threshold {number(found.first.threshold)} and {second} at "
        f"{number(found.second.threshold)} "
        f"on {found.good_images} good and {found.defective_images} defective images of "
        f"{short(found.dataset)}",
        markup=False,
        soft_wrap=True,
    )
    if found.left_out:
        session.out.print(f"{found.left_out} images are left out, because only one of them scored these")
    columns = (first, second, "difference")
    rows = table("metric", *columns, right=columns)
    for each in (*found.metrics, *found.pixel_metrics):
        rows.add_row(_COMPARED.get(each.name, each.name), *_compared_values(each))
    session.out.print(rows)
    if len(found.classes) > 1:
        numbers = ("images", *columns)
        by_class = table("detected of class", *numbers, right=numbers)
        for of in found.classes:
            by_class.add_row(printable(of.class_name), str(of.images), *_compared_values(of.detection))
        session.out.print(by_class)
    session.out.print(_comparison_finding(found), markup=False, soft_wrap=True)
    for title, images in (
        (f"found only by {first}", found.found_only_by_first),
        (f"found only by {second}", found.found_only_by_second),
        (f"good, but rejected only by {first}", found.rejected_only_by_first),
        (f"good, but rejected only by {second}", found.rejected_only_by_second),
    ):
        session.out.print(f"{title}: {len(images) or 'none'}", markup=False)
        for image in images[:_MAX_DISAGREEMENTS]:
            name = printable(image.original_path or image.path)
            session.out.print(
                f"  {name}  {number(image.first_score)} and {number(image.second_score)}",
                markup=False,
                soft_wrap=True,
            )
        if len(images) > _MAX_DISAGREEMENTS:
            session.out.print(f"  and {len(images) - _MAX_DISAGREEMENTS} more, listed with --json")


def _compared_values(metric: MetricComparison) -> tuple[str, str, str]:
    is_rate = metric.name in ("detection_rate", "false_reject_rate")
    return (
        _with_interval(metric.first, metric.first_interval, is_rate=is_rate),
        _with_interval(metric.second, metric.second_interval, is_rate=is_rate),
        _with_interval(metric.difference, metric.difference_interval, is_rate=is_rate, sign=True),
    )


def _comparison_finding(found: CompareModelsResponse) -> str:
    """Return a sentence about the differences that chance does not explain."""
    first, second = short(found.first.name), short(found.second.name)
    clear = []
    for each in found.metrics:
        interval = each.difference_interval
        if each.HasField("difference_interval") and (interval.low > 0 or interval.high < 0):
            higher = second if each.difference > 0 else first
            clear.append(f"{higher} {_FINDINGS[each.name]}")
    if not clear:
        return "all differences are within chance; more test images would show smaller ones"
    return f"beyond chance: {'; '.join(clear)}"


def _with_interval(value: float, interval: Interval, *, is_rate: bool, sign: bool = False) -> str:
    digits = (1, 100) if is_rate else (3, 1)
    plus = "+" if sign else ""
    text = f"{digits[1] * value:{plus}.{digits[0]}f}{' %' if is_rate else ''}"
    if not interval.ByteSize():
        return text
    low, high = (f"{digits[1] * bound:{plus}.{digits[0]}f}" for bound in (interval.low, interval.high))
    return f"{text} ({low} to {high})"


def _evaluations(version: ModelVersion) -> Table:
    numbers = ("images", "AUROC", "threshold", "good rejected", "detected")
    rows = table("job", "dataset", "time", *numbers, right=numbers, title="evaluations")
    for each in version.evaluations:
        metrics = each.metrics
        rows.add_row(
            short(each.job),
            f"{short(metrics.dataset)}, {metrics.dataset_snapshot[:12]}",
            when(each.time),
            str(metrics.good_images + metrics.defective_images),
            number(optional(metrics, "image_auroc")),
            number(optional(metrics, "threshold")),
            share(optional(metrics, "false_reject_rate")),
            share(optional(metrics, "detection_rate")),
        )
    return rows


@group.command()
def scores(ctx: typer.Context, model: ModelArgument, as_json: Json = False) -> None:
    """Show the scores of a version's held-out and test images. JSON has each score.

    Example: blemish models scores tile-patchcore/3
    """
    session = Session.of(ctx)
    with session.client() as client:
        card = client.model(model)
        found = client.scores(card.name)
    threshold = card.calibration.threshold
    if as_json:
        facts = {"model": card.name, "threshold": threshold}
        emit({**facts, "held_out": found.held_out, "test": found.by_class})
        return
    numbers = ("images", "lowest", "median", "highest", "above")
    rows = table("", *numbers, right=numbers, title=f"{card.name}, threshold {number(threshold)}")
    kinds = {"held-out good": found.held_out}
    kinds |= {f"test {printable(name)}": each for name, each in found.by_class.items()}
    for kind, ascending in kinds.items():
        figures = ascending[0], median(ascending), ascending[-1]
        above = len(ascending) - bisect_right(ascending, threshold)
        rows.add_row(escape(kind), str(len(ascending)), *map(number, figures), str(above))
    session.out.print(rows)
    if not found.by_class:
        session.out.print("no scores of test images are stored", markup=False)


@group.command()
def pin(
    ctx: typer.Context,
    version: VersionArgument,
    off: Annotated[bool, typer.Option("--off", help="Unpin the version.")] = False,
    as_json: Json = False,
) -> None:
    """Pin a version.

    Workers do not remove a pinned version as an old one (BLEMISH_KEEP_VERSIONS).

    Example: blemish models pin tile-patchcore/3
    """
    session = Session.of(ctx)
    with session.client() as client:
        card = client.pin(version, not off)
    line = f"{card.name} is {'pinned' if card.pinned else 'not pinned'}"
    session.print_result(card, line, as_json=as_json)


@group.command()
def shadow(
    ctx: typer.Context,
    version: VersionArgument,
    off: Annotated[bool, typer.Option("--off", help="Stop the shadow deployment.")] = False,
    as_json: Json = False,
) -> None:
    """Deploy a version as a shadow.

    A shadow scores live images without affecting any answer. The card of the version (`show`) compares
    its verdicts with those of the version in production.

    Example: blemish models shadow tile-patchcore/4
    """
    session = Session.of(ctx)
    with session.client() as client:
        card = client.shadow(version, not off)
    line = f"{card.name} is {'a shadow' if card.shadow else 'not a shadow'}"
    session.print_result(card, line, as_json=as_json)


@group.command()
def promote(
    ctx: typer.Context,
    version: VersionArgument,
    keep_target: KeepTarget = None,
    yes: PromoteYes = False,
    author: Annotated[
        str | None,
        typer.Option(help="Author, if a target is kept.", show_default="current user"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Promote a version to production.

    Promote an older version to roll back. If a person has set the threshold of the version in production,
    choose whether the new one keeps its target.

    Example: blemish models promote tile-patchcore/4 --keep-target
    """
    session = Session.of(ctx)
    with session.client() as client:
        promoted = promote_version(
            session, client, version, keep_target=keep_target, yes=yes, author=author
        )
    session.print_result(promoted, ending(promoted), as_json=as_json)


@group.command()
def delete(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Version (tile-patchcore/3), or model with all its versions (tile-patchcore).",
        ),
    ],
    force: Annotated[
        bool,
        typer.Option("--force", help="Delete a model even if one of its versions is in production."),
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete a version or a model with its reports, index and labels.

    Example: blemish models delete tile-patchcore/3
    """
    session = Session.of(ctx)
    name = model_name(model)
    with session.client() as client:
        if name.endswith(("/versions/latest", "@latest")):
            name = client.model(name).name  # the version to confirm and to delete
        confirm_deletion(name, yes=yes)
        client.delete_model(name, force=force)
    session.print_result({"removed": name}, f"{name} was deleted", as_json=as_json)


@group.command()
def export(
    ctx: typer.Context,
    model: ModelArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write.", show_default="MODEL-N.blemish"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a version with its report and calibrations to a file for another server.

    Example: blemish models export tile-patchcore/3 -o tile.blemish
    """
    session = Session.of(ctx)
    with session.client() as client:
        # Resolve an alias once, so that the file is named after the exported version.
        version = client.model(model).name
        file = output or Path(f"{short(version).replace('/', '-')}.blemish")
        try:
            with _byte_progress(session, f"export {short(version)}") as on_bytes:
                client.export_model(version, file, on_bytes=on_bytes)
        except OSError as error:
            raise Failure(f"cannot write {file}: {error.strerror}") from error
    size_bytes = file.stat().st_size
    session.print_result(
        {"model": version, "file": str(file), "size_bytes": size_bytes},
        f"{version} was exported to {file}, {size(size_bytes)}",
        as_json=as_json,
    )


@group.command("import")
def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File written by `blemish models export`.")],
    model_id: Annotated[
        str,
        typer.Option(
            "--as", metavar="MODEL", help="Id of the model on this server.", show_default="exported id"
        ),
    ] = "",
    promote: Annotated[bool, typer.Option("--promote", help="Promote the version to production.")] = False,
    keep_target: KeepTarget = None,
    yes: PromoteYes = False,
    as_json: Json = False,
) -> None:
    """Import a version that another server exported.

    The server first checks that it can run the version.

    Example: blemish models import tile.blemish --promote
    """
    session = Session.of(ctx)
    with session.client() as client:
        try:
            with _byte_progress(session, f"import {file.name}", "checking") as on_bytes:
                version = client.import_model(file, model_id=short(model_id), on_bytes=on_bytes)
        except OSError as error:
            raise Failure(f"cannot read {file}: {error.strerror}") from error
        if promote:
            version = promote_version(session, client, version.name, keep_target=keep_target, yes=yes)
    promoted = " and promoted to production" if version.production else ""
    line = f"{version.name} was imported{promoted}"
    session.print_result(version, f"{line}\n{ending(version)}" if promoted else line, as_json=as_json)


@contextmanager
def _byte_progress(
    session: Session, label: str, last_step: str = ""
) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar and yield the function that updates it.

    Args:
        session: session with the console.
        label: label of the bar.
        last_step: text shown once all bytes were transferred.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=session.err) as progress:
        bar = progress.add_task(label, total=None)

        def on_bytes(done: int, total: int) -> None:
            description = f"{label}: {last_step}" if last_step and done == total else label
            progress.update(bar, description=description, completed=done, total=total)

        yield on_bytes


@group.command()
def report(
    ctx: typer.Context,
    model: ModelArgument,
    evaluation: Annotated[
        str,
        typer.Option(
            metavar="JOB",
            help="Evaluation job whose report to fetch: its name, its first digits, or latest.",
            show_default="report of the training",
        ),
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File to write.", show_default="stdout"),
    ] = None,
) -> None:
    """Fetch the HTML report of a version's training or of an evaluation.

    Example: blemish models report tile-patchcore/3 -o report.html
    """
    session = Session.of(ctx)
    with session.client() as client:
        page = client.report(model, evaluation=_evaluation_job(client, model, evaluation))
    if output is None:
        sys.stdout.buffer.write(page)
        sys.stdout.buffer.flush()
        return
    try:
        output.write_bytes(page)
    except OSError as error:
        raise Failure(f"cannot write {output}: {error.strerror}") from error
    session.out.print(f"report written to {output}, {size(len(page))}", markup=False)


def _evaluation_job(client: Client, model: str, name: str) -> str:
    """Return the job of an evaluation; a name that fits none of them is passed on for the server to reject.

    Raises:
        Failure: if the latest evaluation is asked for, and there is none.
    """
    if not name:
        return ""
    card = client.model(model)
    jobs = [evaluation.job for evaluation in card.evaluations]  # the newest first
    if short(name) == "latest":
        if not jobs:
            raise Failure(f"{card.name} was not evaluated by a job; leave out --evaluation")
        return jobs[0]
    fitting = [job for job in jobs if job.startswith(job_name(name))]
    return fitting[0] if len(fitting) == 1 else name


@group.command()
def calibrate(
    ctx: typer.Context,
    model: ModelArgument,
    false_reject_rate: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Share of good images that the threshold may reject, at most 0.5."
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Fixed threshold, in units of the version's scores.")
    ] = None,
    trained: Annotated[
        bool, typer.Option("--trained", help="Restore the threshold of the training.")
    ] = False,
    pixel_threshold: Annotated[
        str,
        typer.Option(
            metavar="SCORE",
            help='Pixel score above which a region begins, or "calibrated".',
            show_default="unchanged",
        ),
    ] = "",
    smallest_area: Annotated[
        float | None,
        typer.Option(min=0, metavar="PX", help="Smallest area of a region, in square px."),
    ] = None,
    max_regions: Annotated[
        int | None, typer.Option(min=1, max=64, help="Largest number of regions of an image.")
    ] = None,
    mm_per_px: Annotated[
        float | None,
        typer.Option(min=0, help="Width of a pixel in mm, so that regions have sizes in mm; 0 for none."),
    ] = None,
    revision: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Restore the threshold and the regions of an earlier revision.",
        ),
    ] = None,
    comment: Annotated[str, typer.Option(help="Reason, kept in the history.")] = "",
    author: Annotated[
        str | None, typer.Option(help="Author, kept in the history.", show_default="current user")
    ] = None,
    expected_revision: Annotated[
        int | None,
        typer.Option(metavar="N", help="Fail unless this is the current revision of the calibration."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what the change would do to stored scores; change nothing."),
    ] = False,
    since: Annotated[
        str,
        typer.Option(metavar="TIME", help=f"With --dry-run: compare frames kept since then: {AGE_HELP}."),
    ] = "7d",
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Confirm a threshold that rejects all or nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Change the threshold or the regions of a version, effective from the next image.

    Example: blemish models calibrate tile-patchcore/3 --false-reject-rate 0.01 --dry-run
    """
    has_regions = bool(pixel_threshold) or any(
        value is not None for value in (smallest_area, max_regions, mm_per_px)
    )
    rules = sum((false_reject_rate is not None, threshold is not None, trained, revision is not None))
    if rules > 1 or (rules == 0 and not has_regions):
        raise Failure(
            "give exactly one of --false-reject-rate, --threshold, --trained and --revision, or settings "
            "of regions"
        )
    session = Session.of(ctx)
    with session.client() as client:
        # The server requires a version, so resolve an alias first.
        before = client.model(model)
        regions = None
        if has_regions:
            regions = _changed_regions(
                before.calibration.regions, pixel_threshold, smallest_area, max_regions, mm_per_px
            )
        rule: _Rule = {
            "target_false_reject_rate": false_reject_rate,
            "threshold": threshold,
            "trained": trained,
            "revision": revision,
            "regions": regions,
        }
        if dry_run:
            _preview(session, client, before.name, rule, since, as_json=as_json)
            return
        apply = partial(
            client.update_calibration,
            before.name,
            author=author if author is not None else user_name(),
            comment=comment,
            # The settings of regions are replaced as a whole, so another change between must not be lost.
            expected_revision=expected_revision or (before.calibration.revision if has_regions else 0),
            **rule,
        )
        changed = _confirmed(apply, yes=yes)
    if as_json:
        emit(changed)
        return
    now = changed.calibration
    session.out.print(
        f"{changed.name}: threshold {number(before.calibration.threshold)} -> {number(now.threshold)}, "
        f"{threshold_rule(now)}; revision {now.revision}",
        markup=False,
    )
    session.out.print(
        f"expected false rejects: {share(now.warranted_false_reject_rate)} on average, from "
        f"{now.held_out_images} held-out good images; 90 % confidence interval {interval(now)}",
        markup=False,
    )
    session.out.print(
        f"pixel threshold: {number(before.calibration.pixel_threshold)} -> {number(now.pixel_threshold)}, "
        f"{pixel_rule(now)}",
        markup=False,
    )
    if has_regions:
        session.out.print(f"regions: {_regions(now.regions)}", markup=False)
    session.out.print(ending(changed), markup=False)


class _Rule(TypedDict):
    """The parts of a change of a calibration; the others are None or False."""

    target_false_reject_rate: float | None
    threshold: float | None
    trained: bool
    revision: int | None
    regions: RegionSettings | None


def _preview(
    session: Session, client: Client, name: str, rule: _Rule, since: str, *, as_json: bool
) -> None:
    begin = parse_time(since, "--since")
    period = max(datetime.now(UTC) - begin, timedelta(0)) if begin else None
    try:
        preview = client.preview_calibration(name, period=period, max_frames=_MAX_FLIPPED, **rule)
    except BlemishError as error:
        if error.code is not grpc.StatusCode.UNIMPLEMENTED:
            raise
        raise Failure("the server is too old to preview calibrations; update it") from error
    if as_json:
        emit(preview)
    else:
        print_preview(session, name, preview)


def _confirmed(apply: Callable[..., ModelVersion], *, yes: bool) -> ModelVersion:
    """Apply a change of a calibration, after a confirmation if the server requires one.

    Raises:
        Failure: if the user declines, or cannot be asked because stdin is not a terminal.
    """
    try:
        return apply(acknowledge_extreme=yes)
    except FailedPrecondition as error:
        if error.reason != CONFIRMATION_NEEDED:
            raise
        reason = error.message.rpartition(";")[0]
    if not can_ask():
        raise Failure(f"{reason}; pass --yes to use it all the same, or see --dry-run")
    if not typer.confirm(f"{reason}. Use it all the same?", err=True):
        raise Failure("nothing was changed", UNSUCCESSFUL)
    return apply(acknowledge_extreme=True)


def _changed_regions(
    before: RegionSettings,
    pixel_threshold: str,
    smallest_area: float | None,
    max_regions: int | None,
    mm_per_px: float | None,
) -> RegionSettings:
    """Return the settings of regions with the options that were given."""
    settings = RegionSettings()
    settings.CopyFrom(before)
    if pixel_threshold == "calibrated":
        settings.ClearField("pixel_threshold")
    elif pixel_threshold:
        try:
            settings.pixel_threshold = float(pixel_threshold)
        except ValueError as error:
            raise Failure(
                f'--pixel-threshold {pixel_threshold} is not valid; give a number or "calibrated"'
            ) from error
    if smallest_area is not None:
        settings.smallest_area = smallest_area
    if max_regions is not None:
        settings.max_regions = max_regions
    if mm_per_px:
        settings.mm_per_px = mm_per_px
    elif mm_per_px is not None:
        settings.ClearField("mm_per_px")
    return settings


def _regions(settings: RegionSettings) -> str:
    parts = [f"at most {settings.max_regions}" if settings.max_regions else ""]
    if settings.smallest_area:
        parts.append(f"of {settings.smallest_area:g} px\N{SUPERSCRIPT TWO} or more")
    if settings.HasField("mm_per_px"):
        parts.append(f"{settings.mm_per_px:g} mm per px")
    return ", ".join(filter(None, parts)) or ABSENT


def _mask(version: ModelVersion) -> str:
    if not version.HasField("mask"):
        return "none; looks at all pixels"
    mask = version.mask
    text = f"{mask.width} x {mask.height} px; ignores {share(mask.ignored_share)} of the pixels"
    if mask.HasField("alignment"):
        text += f"; frames are aligned to {mask.alignment.reference}"
    return text


def _history(version: ModelVersion) -> Table:
    rows = table(
        "revision", "threshold", "rule", "time", "author", "comment", right=("revision", "threshold")
    )
    rows.title = "calibrations"
    for calibration in version.calibration_history:
        rows.add_row(
            str(calibration.revision),
            number(calibration.threshold),
            threshold_rule(calibration),
            when(calibration.update_time),
            escape(calibration.author),
            escape(calibration.comment),
        )
    return rows


def _print_comparison(session: Session, comparison: ShadowComparison) -> None:
    counts = (
        comparison.both_normal,
        comparison.both_anomalous,
        comparison.only_shadow,
        comparison.only_production,
    )
    scored = sum(counts)
    columns = ("both normal", "both anomalous", "only shadow anomalous", "only production anomalous")
    rows = table(*columns, "failed", right=(*columns, "failed"))
    rows.title = f"compared with {short(comparison.production)} since {when(comparison.begin_time)}"
    shares = [f"{count} ({share(count / scored)})" if scored else "0" for count in counts]
    rows.add_row(*shares, str(comparison.failed))
    session.out.print(rows)
    if not comparison.disagreements:
        return
    scores = ("score", "threshold", "production score", "production threshold")
    rows = table("time", "camera", *scores, "item", title="latest disagreements", right=scores)
    for each in comparison.disagreements[:_MAX_DISAGREEMENTS]:
        rows.add_row(
            when(each.time),
            escape(each.camera),
            number(each.shadow_score),
            number(each.shadow_threshold),
            number(each.production_score),
            number(each.production_threshold),
            each.item or ABSENT,
        )
    session.out.print(rows)


def _print_card(session: Session, version: ModelVersion) -> None:
    calibration, split = version.calibration, version.split
    card = table("", "", title=version.name)
    card.show_header = False
    for name, value in (
        ("production", "yes" if version.production else "no"),
        ("pinned", "yes" if version.pinned else "no"),
        ("shadow", "yes" if version.shadow else "no"),
        ("detector", version.detector),
        *((f"  {name}", value) for name, value in sorted(version.settings.items()) if value not in _UNSET),
        ("seed", str(version.seed)),
        *sorted(version.training.items()),
        ("mask", _mask(version)),
        *([("white level", str(version.white_level))] if version.white_level else []),
        ("category", version.category),
        ("dataset", f"{short(version.dataset)}, snapshot {version.dataset_snapshot[:12]}"),
        ("trained on", f"{split.learned} images; calibrated on {split.held_out}, {split.method}"),
        ("threshold", f"{number(calibration.threshold)}; {threshold_rule(calibration)}"),
        ("  of pixels", f"{number(calibration.pixel_threshold)}; {pixel_rule(calibration)}"),
        ("  regions", _regions(calibration.regions)),
        (
            "  held-out images",
            f"{calibration.held_out_above} of {calibration.held_out_images} above the threshold",
        ),
        ("  false rejects", f"{share(calibration.warranted_false_reject_rate)} expected on average"),
        ("", f"{interval(calibration)}, 90 % confidence interval"),
        (
            "  revision",
            f"{calibration.revision}, {when(calibration.update_time)} by {escape(calibration.author)}",
        ),
        (
            "best-F1 threshold",
            f"{number(calibration.best_f1_threshold)} (uses labels; for comparison)"
            if calibration.HasField("best_f1_threshold")
            else ABSENT,
        ),
        *((f"frame by {each.runtime}", frame_latency(each)) for each in version.latencies),
        ("created", f"{when(version.create_time)} by {version.job}"),
        ("size", size(version.size_bytes)),
        ("libraries", ", ".join(f"{k} {v}" for k, v in sorted(version.libraries.items()))),
    ):
        card.add_row(name, value)
    session.out.print(card)
    if len(version.calibration_history) > 1:
        session.out.print(_history(version))
    if version.HasField("comparison"):
        _print_comparison(session, version.comparison)
    if version.HasField("metrics"):
        session.out.print(metrics_tables(version.metrics, f"on {short(version.metrics.dataset)}"))
    if version.evaluations:
        session.out.print(_evaluations(version))
