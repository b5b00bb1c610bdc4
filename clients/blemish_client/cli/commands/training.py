# SPDX-License-Identifier: Apache-2.0
"""``blemish train``, ``evaluate`` and ``index``: work for the workers, watched to its end."""

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, TypedDict

import typer

from blemish.v1.job_pb2 import JOB_STATE_SUCCEEDED, EfficientAd, Job, JobPriority, PatchCore
from blemish_client.cli.failures import Failure
from blemish_client.cli.figures import metrics_tables
from blemish_client.cli.options import Detach, Json
from blemish_client.cli.output import emit
from blemish_client.cli.progress import detached, leave_with, wait_for_job
from blemish_client.cli.session import Session
from blemish_client.names import short

DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET", help="For example tile.")]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="tile-patchcore, tile-patchcore@production or m/3.")
]


class Urgent(StrEnum):
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


Urgency = Annotated[Urgent, typer.Option("--priority", help="Of the jobs that wait, the high go first.")]
MaxRunMinutes = Annotated[
    float, typer.Option(min=0, help="Beyond it the job fails; no limit unless given.")
]
MaxMemoryGib = Annotated[float, typer.Option(min=0, help="Beyond it the job fails; no limit unless given.")]


class _Terms(TypedDict):
    """What any job can be given; as the client's methods name it."""

    priority: JobPriority.ValueType
    max_run_time_s: float
    max_memory_bytes: int


def _terms(urgency: Urgent, max_run_minutes: float, max_memory_gib: float) -> _Terms:
    return {
        "priority": JobPriority.Value(f"JOB_PRIORITY_{urgency.name}"),
        "max_run_time_s": max_run_minutes * 60,
        "max_memory_bytes": round(max_memory_gib * 2**30),
    }


class DetectorName(StrEnum):
    PATCHCORE = "patchcore"
    EFFICIENTAD = "efficientad"


def train(
    ctx: typer.Context,
    dataset: DatasetArgument,
    model_id: Annotated[str, typer.Option(help="Of which to make a version.")] = "",
    detector: Annotated[DetectorName, typer.Option(help="The algorithm.")] = DetectorName.PATCHCORE,
    input_size: Annotated[int, typer.Option(min=0, help="Pixels a side; 256 unless given.")] = 0,
    backbone: Annotated[
        str, typer.Option(help="PatchCore: a timm model; efficientnet_lite0 unless given.")
    ] = "",
    coreset_ratio: Annotated[float, typer.Option(help="PatchCore: share of patches kept, to 1.")] = 0.0,
    neighbors: Annotated[int, typer.Option(min=0, help="PatchCore: that weigh the image score.")] = 0,
    whitened: Annotated[
        bool | None,
        typer.Option(
            help="PatchCore: whitened features and relative distances, or the paper's; the former."
        ),
    ] = None,
    size: Annotated[str, typer.Option(help="EfficientAD: small or medium; small unless given.")] = "",
    max_steps: Annotated[int, typer.Option(min=0, help="EfficientAD: steps at most; 70,000.")] = 0,
    start: Annotated[
        str, typer.Option(help="EfficientAD: random or solved; see the contract for the default.")
    ] = "",
    max_minutes: Annotated[
        float, typer.Option(min=0, help="EfficientAD: time for the steps; no limit unless given.")
    ] = 0.0,
    int8: Annotated[
        bool | None,
        typer.Option(help="EfficientAD: publish for OpenVINO in INT8 too; as the worker is set."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    target_false_reject_rate: Annotated[
        float, typer.Option(help="Share of good images that may be rejected, to 0.5.")
    ] = 0.0,
    promote: Annotated[bool, typer.Option("--promote", help="To production, when done.")] = False,
    false_alarms_of: Annotated[
        str, typer.Option(metavar="MODEL", help="Learn from what was labelled good in its index, too.")
    ] = "",
    urgency: Urgency = Urgent.NORMAL,
    max_run_minutes: MaxRunMinutes = 0.0,
    max_memory_gib: MaxMemoryGib = 0.0,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Train a detector on the good training images of a dataset; settings not given have defaults."""
    session = Session.of(ctx)
    settings: PatchCore | EfficientAd
    of_patchcore: dict[str, str | float] = {
        "backbone": backbone,
        "coreset_ratio": coreset_ratio,
        "neighbors": neighbors,
        "whitened": whitened is not None,
    }
    of_efficientad: dict[str, str | float] = {
        "size": size,
        "max_steps": max_steps,
        "start": start,
        "max_minutes": max_minutes,
        "int8": int8 is not None,
    }
    if detector is DetectorName.PATCHCORE:
        _refuse_strangers("EfficientAD", of_efficientad)
        settings = PatchCore(
            backbone=backbone,
            input_size=input_size,
            coreset_ratio=coreset_ratio,
            neighbors=neighbors,
            whitened=whitened,
        )
    else:
        _refuse_strangers("PatchCore", of_patchcore)
        settings = EfficientAd(
            size=size, input_size=input_size, max_steps=max_steps, start=start, int8=int8
        )
        if max_minutes:
            settings.max_duration.FromTimedelta(timedelta(minutes=max_minutes))
    with session.client() as client:
        job = client.train(
            dataset,
            model_id=model_id,
            detector=settings,
            seed=seed,
            target_false_reject_rate=target_false_reject_rate,
            promote=promote,
            false_alarms_of=false_alarms_of,
            **_terms(urgency, max_run_minutes, max_memory_gib),
        )
        if detach:
            detached(job, as_json=as_json)
            return
        ended = wait_for_job(session, client, job)
    _report(session, ended, as_json=as_json)
    leave_with([ended])


def _refuse_strangers(of: str, options: Mapping[str, str | float]) -> None:
    """Complain of options that the chosen detector has not."""
    for name, value in options.items():
        if value:
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"{option} is an option of {of}, which --detector does not name")


def evaluate(
    ctx: typer.Context,
    model: ModelArgument,
    dataset: DatasetArgument,
    urgency: Urgency = Urgent.NORMAL,
    max_run_minutes: MaxRunMinutes = 0.0,
    max_memory_gib: MaxMemoryGib = 0.0,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Measure a model on the test images of a dataset."""
    session = Session.of(ctx)
    with session.client() as client:
        job = client.evaluate(model, dataset, **_terms(urgency, max_run_minutes, max_memory_gib))
        if detach:
            detached(job, as_json=as_json)
            return
        ended = wait_for_job(session, client, job)
    _report(session, ended, as_json=as_json)
    leave_with([ended])


def index(
    ctx: typer.Context,
    model: ModelArgument,
    datasets: Annotated[list[str] | None, typer.Argument(metavar="DATASET", help="One or more.")] = None,
    kept_frames: Annotated[
        bool, typer.Option("--kept-frames", help="The frames that were kept of the model, too.")
    ] = False,
    urgency: Urgency = Urgent.NORMAL,
    max_run_minutes: MaxRunMinutes = 0.0,
    max_memory_gib: MaxMemoryGib = 0.0,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Put the images of datasets into a model's index, for `blemish search`."""
    session = Session.of(ctx)
    with session.client() as client:
        terms = _terms(urgency, max_run_minutes, max_memory_gib)
        wanted = [*(datasets or ()), *([None] if kept_frames else [])]
        if not wanted:
            raise Failure("nothing to index: name a dataset, or --kept-frames")
        jobs = [client.embed(model, dataset, **terms) for dataset in wanted]
        if detach:
            for job in jobs:
                detached(job, as_json=as_json)
            return
        ended = [wait_for_job(session, client, job) for job in jobs]
    for job in ended:
        _report(session, job, as_json=as_json)
    leave_with(ended)


def _report(session: Session, job: Job, *, as_json: bool) -> None:
    if as_json:
        emit(job)
    elif job.state == JOB_STATE_SUCCEEDED:
        result = job.result
        if job.WhichOneof("work") == "embed":
            of = "kept frames" if job.embed.kept_frames else f"images of {short(job.embed.dataset)}"
            session.out.print(
                f"{result.indexed_images} {of} are in the index of {short(result.model_version)}",
                markup=False,
            )
        else:
            session.out.print(f"{result.model_version} is there", markup=False)
        if result.HasField("metrics"):
            session.out.print(metrics_tables(result.metrics, f"on {short(result.metrics.dataset)}"))
        if job.WhichOneof("work") != "embed":
            session.out.print(f"report: {_report_command(job)}", markup=False, soft_wrap=True)


def _report_command(job: Job) -> str:
    """What writes the page that a job left."""
    of = f" --evaluation {short(job.name)}" if job.WhichOneof("work") == "evaluate" else ""
    return f"blemish models report {short(job.result.model_version)}{of} -o report.html"
