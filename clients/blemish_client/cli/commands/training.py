# SPDX-License-Identifier: Apache-2.0
"""``blemish train``, ``evaluate`` and ``index``: start jobs and wait for their results."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import grpc
import typer

from blemish.v1.job_pb2 import JOB_STATE_SUCCEEDED, EfficientAd, Job, JobPriority, PatchCore
from blemish.v1.model_pb2 import FrameMask
from blemish_client.cli.calibrations import ending, judges_by
from blemish_client.cli.choices import JobPriorityChoice, to_proto
from blemish_client.cli.failures import Failure, can_ask
from blemish_client.cli.figures import metrics_tables
from blemish_client.cli.options import DatasetArgument, Detach, Json, ModelArgument
from blemish_client.cli.output import emit, estimate_lines
from blemish_client.cli.progress import exit_unless_succeeded, wait_for_job
from blemish_client.cli.promotion import (
    KeepTarget,
    PromoteYes,
    ask_for_target,
    in_production,
    is_set_by_person,
)
from blemish_client.cli.session import Session
from blemish_client.client import Client
from blemish_client.errors import BlemishError
from blemish_client.names import short
from blemish_client.transport.requests import JobOptions, training_mask
from blemish_client.transport.work_requests import TrainOptions

_LARGEST = 1e9
_PATCHCORE = "Options of PatchCore"
_EFFICIENTAD = "Options of EfficientAD"
_PART = "Part of the images"
_JOB = "Options of the job"

PriorityOption = Annotated[
    JobPriorityChoice,
    typer.Option(
        "--priority",
        help="Priority among the jobs that wait for the same workers.",
        rich_help_panel=_JOB,
    ),
]


def _positive(value: float | None) -> float | None:
    """Reject a number that the contract takes for "not set", and one that it cannot represent.

    Raises:
        typer.BadParameter: if the number is not above 0, or is far too large.
    """
    if value is not None and not 0 < value <= _LARGEST:
        raise typer.BadParameter(f"{value:g} is not above 0 and at most {_LARGEST:g}")
    return value


MaxRunMinutes = Annotated[
    float | None,
    typer.Option(
        help="Run time after which the job fails.",
        show_default="no limit",
        callback=_positive,
        rich_help_panel=_JOB,
    ),
]
MaxMemoryGib = Annotated[
    float | None,
    typer.Option(
        help="Memory use above which the job fails.",
        show_default="no limit",
        callback=_positive,
        rich_help_panel=_JOB,
    ),
]


class DetectorName(StrEnum):
    """The detectors that can be trained."""

    PATCHCORE = "patchcore"
    EFFICIENTAD = "efficientad"


def train(
    ctx: typer.Context,
    dataset: DatasetArgument,
    model_id: Annotated[
        str,
        typer.Option(
            help="Id of the model that receives the new version.", show_default="DATASET-DETECTOR"
        ),
    ] = "",
    detector: Annotated[
        DetectorName, typer.Option(metavar="NAME", help="Detector to train: patchcore or efficientad.")
    ] = DetectorName.PATCHCORE,
    input_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="PX",
            help="PatchCore: shorter side of the network's input, in px. EfficientAD: side of the square "
            "input.",
            show_default="320 or 256",
        ),
    ] = None,
    smallest_defect: Annotated[
        float | None,
        typer.Option(
            min=1,
            metavar="PX",
            help="Width of the smallest defect to find, in px of the original images. Chooses "
            "the input size.",
            show_default="none",
            rich_help_panel=_PATCHCORE,
        ),
    ] = None,
    backbone: Annotated[
        str,
        typer.Option(
            help="Name of a timm model.", show_default="efficientnet_lite2", rich_help_panel=_PATCHCORE
        ),
    ] = "",
    coreset_ratio: Annotated[
        float | None,
        typer.Option(
            help="Share of patches in the memory bank, at most 1.",
            show_default="0.1",
            callback=_positive,
            rich_help_panel=_PATCHCORE,
        ),
    ] = None,
    max_entries: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most patches in the memory bank.", show_default="10000", rich_help_panel=_PATCHCORE
        ),
    ] = None,
    neighbors: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of neighbours that weight the image score.",
            show_default="9",
            rich_help_panel=_PATCHCORE,
        ),
    ] = None,
    whitened: Annotated[
        bool | None,
        typer.Option(
            help="--no-whitened is PatchCore as in the paper.",
            show_default="whitened",
            rich_help_panel=_PATCHCORE,
        ),
    ] = None,
    size: Annotated[
        str,
        typer.Option(
            help="Size of the model, small or medium.", show_default="small", rich_help_panel=_EFFICIENTAD
        ),
    ] = "",
    max_steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most training steps.", show_default="70000", rich_help_panel=_EFFICIENTAD
        ),
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            help="Initialisation of the student, random or solved.",
            show_default="solved on a CPU or for less than 10000 steps, else random",
            rich_help_panel=_EFFICIENTAD,
        ),
    ] = "",
    max_minutes: Annotated[
        float | None,
        typer.Option(
            help="Time for the training, without its calibration.",
            callback=_positive,
            show_default="5 on a CPU without --max-steps, else no limit",
            rich_help_panel=_EFFICIENTAD,
        ),
    ] = None,
    int8: Annotated[
        bool | None,
        typer.Option(
            help="Also publish the model in INT8 for OpenVINO.",
            show_default="setting of the worker",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training.")] = 0,
    target_false_reject_rate: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            rich_help_panel="Threshold",
            help="Share of good images that the threshold may reject, at most 0.5.",
            show_default="0.05",
            callback=_positive,
        ),
    ] = None,
    promote: Annotated[
        bool, typer.Option("--promote", help="Promote the version to production when it is published.")
    ] = False,
    keep_target: KeepTarget = None,
    yes: PromoteYes = False,
    false_alarms_of: Annotated[
        str,
        typer.Option(
            metavar="MODEL", help="Also learn the images labelled as good in the index of this model."
        ),
    ] = "",
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Look only at a part of the images: a PNG, white where to look, or JSON with polygons.",
            show_default="all pixels",
            rich_help_panel=_PART,
        ),
    ] = None,
    mask_of: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Use the mask of this version, with its alignment.",
            show_default=False,
            rich_help_panel=_PART,
        ),
    ] = "",
    align: Annotated[
        bool,
        typer.Option(
            "--align",
            help="Move the mask with the part, which may be shifted and slightly turned in a frame.",
            rich_help_panel=_PART,
        ),
    ] = False,
    reference: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Image of the dataset on which the mask was drawn; implies --align.",
            show_default="first training image",
            rich_help_panel=_PART,
        ),
    ] = "",
    priority: PriorityOption = JobPriorityChoice.NORMAL,
    max_run_minutes: MaxRunMinutes = None,
    max_memory_gib: MaxMemoryGib = None,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Train a detector on the good training images of a dataset.

    Example: blemish train tile --detector efficientad --max-minutes 30 --promote
    """
    session = Session.of(ctx)
    settings: PatchCore | EfficientAd
    patchcore_options: dict[str, str | float | None] = {
        "backbone": backbone,
        "smallest_defect": smallest_defect,
        "coreset_ratio": coreset_ratio,
        "max_entries": max_entries,
        "neighbors": neighbors,
        "whitened": whitened is not None,
    }
    efficientad_options: dict[str, str | float | None] = {
        "size": size,
        "max_steps": max_steps,
        "start": start,
        "max_minutes": max_minutes,
    }
    if detector is DetectorName.PATCHCORE:
        _reject_options("EfficientAD", efficientad_options)
        settings = PatchCore(
            backbone=backbone,
            input_size=input_size or 0,
            smallest_defect=smallest_defect or 0.0,
            coreset_ratio=coreset_ratio or 0.0,
            max_entries=max_entries or 0,
            neighbors=neighbors or 0,
            whitened=whitened,
            int8=int8,
        )
    else:
        _reject_options("PatchCore", patchcore_options)
        settings = EfficientAd(
            size=size, input_size=input_size or 0, max_steps=max_steps or 0, start=start, int8=int8
        )
        if max_minutes:
            settings.max_duration.FromTimedelta(timedelta(minutes=max_minutes))
    if mask is not None and mask_of:
        raise Failure("--mask and --mask-of exclude each other; give one of them")
    with session.client() as client:
        if promote and keep_target is None:
            keep_target = _promoted_target(client, model_id or f"{dataset}-{detector}", yes=yes)
        options: TrainOptions = {
            "model_id": model_id,
            "detector": settings,
            "seed": seed,
            "target_false_reject_rate": target_false_reject_rate or 0.0,
            "promote": promote,
            "keep_target": keep_target if promote else None,
            "false_alarms_of": false_alarms_of,
        }
        _print_estimate(session, client, dataset, options)
        options["mask"] = _read_mask(mask) if mask is not None else None
        options["mask_of"], options["align"], options["reference"] = mask_of, align, reference
        options |= _job_options(priority, max_run_minutes, max_memory_gib)  # type: ignore[typeddict-item]
        job = client.train(dataset, **options)
        if (mask is not None or mask_of) and not job.train.HasField("mask"):
            client.cancel(job)
            raise Failure(
                "the server is too old for masks, so the training was cancelled; update the server"
            )
        if (align or reference) and not job.train.mask.HasField("alignment"):
            client.cancel(job)
            raise Failure(
                "the server is too old to align frames, so the training was cancelled; update the server"
            )
        _run_jobs(session, client, [job], detach=detach, as_json=as_json)


def evaluate(
    ctx: typer.Context,
    model: ModelArgument,
    dataset: DatasetArgument,
    priority: PriorityOption = JobPriorityChoice.NORMAL,
    max_run_minutes: MaxRunMinutes = None,
    max_memory_gib: MaxMemoryGib = None,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Evaluate a model on the test images of a dataset.

    Example: blemish evaluate tile-patchcore tile
    """
    session = Session.of(ctx)
    with session.client() as client:
        job = client.evaluate(model, dataset, **_job_options(priority, max_run_minutes, max_memory_gib))
        _run_jobs(session, client, [job], detach=detach, as_json=as_json)


def index(
    ctx: typer.Context,
    model: ModelArgument,
    datasets: Annotated[
        list[str] | None, typer.Argument(metavar="DATASET", help="Ids of the datasets.")
    ] = None,
    kept_frames: Annotated[
        bool, typer.Option("--kept-frames", help="Also add the kept frames of the model.")
    ] = False,
    priority: PriorityOption = JobPriorityChoice.NORMAL,
    max_run_minutes: MaxRunMinutes = None,
    max_memory_gib: MaxMemoryGib = None,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Add the test images of datasets to a model's index for `blemish search`.

    Example: blemish index tile-patchcore tile --kept-frames
    """
    session = Session.of(ctx)
    sources = [*(datasets or ()), *([None] if kept_frames else [])]
    if not sources:
        raise Failure("nothing to index; name a dataset or pass --kept-frames")
    options = _job_options(priority, max_run_minutes, max_memory_gib)
    with session.client() as client:
        jobs = [client.embed(model, source, **options) for source in sources]
        _run_jobs(session, client, jobs, detach=detach, as_json=as_json)


def _print_estimate(session: Session, client: Client, dataset: str, options: TrainOptions) -> None:
    """Print what a training and a frame of its model will cost, unless the server is too old for that."""
    try:
        answer = client.estimate_training(dataset, **options)
    except BlemishError as error:
        if error.code is not grpc.StatusCode.UNIMPLEMENTED:
            raise
        return
    for line in estimate_lines(answer):
        session.err.print(line, markup=False, soft_wrap=True)


def _promoted_target(client: Client, model: str, *, yes: bool) -> bool | None:
    """Return whether the version keeps the target of the one that it will replace; None without a choice.

    The question comes before the training, which may end when everyone has left.

    Raises:
        Failure: if a calibration that a person has set would be lost, and the user cannot be asked.
    """
    if yes:
        return False
    replaced = in_production(client, short(model))
    if replaced is None or not is_set_by_person(replaced.calibration):
        return None
    if can_ask():
        return ask_for_target(replaced, None)
    raise Failure(
        f"{replaced.name} judges by {judges_by(replaced.calibration)}, which the promotion would replace; "
        "pass --keep-target to carry its target over, or --own-target"
    )


def _read_mask(file: Path) -> FrameMask:
    try:
        return training_mask(file.read_bytes())
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise Failure(f"{file}: {error}") from error


def _job_options(
    priority: JobPriorityChoice, max_run_minutes: float | None, max_memory_gib: float | None
) -> JobOptions:
    return {
        "priority": to_proto(JobPriority, priority),
        "max_run_time_s": (max_run_minutes or 0.0) * 60,
        "max_memory_bytes": round((max_memory_gib or 0.0) * 2**30),
    }


def _reject_options(detector: str, options: Mapping[str, str | float | None]) -> None:
    """Raise a usage error if an option of the other detector is set."""
    for name, value in options.items():
        if value:
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"{option} is an option of {detector}; select it with --detector")


def _run_jobs(
    session: Session, client: Client, jobs: Sequence[Job], *, detach: bool, as_json: bool
) -> None:
    """Wait for jobs and print their results, or print only their names with ``detach``.

    Raises:
        typer.Exit: with code 1, if a job did not succeed.
    """
    if detach:
        for job in jobs:
            if as_json:
                emit(job)
            else:
                print(job.name, flush=True)
        return
    ended = [wait_for_job(session, client, job) for job in jobs]
    for job in ended:
        if as_json:
            emit(job)
        elif job.state == JOB_STATE_SUCCEEDED:
            _print_result(session, client, job)
    exit_unless_succeeded(ended)


def _print_result(session: Session, client: Client, job: Job) -> None:
    result = job.result
    if job.WhichOneof("work") == "embed":
        images = "kept frames" if job.embed.kept_frames else f"images of {short(job.embed.dataset)}"
        session.out.print(
            f"{result.indexed_images} {images} are in the index of {short(result.model_version)}",
            markup=False,
        )
    elif job.WhichOneof("work") == "train":
        session.out.print(ending(client.model(result.model_version)), markup=False, soft_wrap=True)
    else:
        session.out.print(f"{result.model_version} is ready", markup=False)
    if result.HasField("metrics"):
        session.out.print(metrics_tables(result.metrics, f"on {short(result.metrics.dataset)}"))
    if job.WhichOneof("work") != "embed":
        session.out.print(f"report: {_report_command(job)}", markup=False, soft_wrap=True)


def _report_command(job: Job) -> str:
    """Return the command that fetches the report of a job."""
    evaluation = f" --evaluation {short(job.name)}" if job.WhichOneof("work") == "evaluate" else ""
    return f"blemish models report {short(job.result.model_version)}{evaluation} -o report.html"
