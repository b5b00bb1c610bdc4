# SPDX-License-Identifier: Apache-2.0
"""``blemish jobs``: list, show, watch and cancel jobs. ``blemish workers``: list workers."""

import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from itertools import islice
from typing import Annotated

import typer
from rich.live import Live as LiveTable
from rich.table import Table

from blemish.v1.job_pb2 import JOB_STATE_FAILED, Job, JobState, Phase, Worker
from blemish_client.cli.choices import JobStateChoice, to_proto
from blemish_client.cli.groups import has_subcommand
from blemish_client.cli.options import Json
from blemish_client.cli.output import ABSENT, emit, log_line, state, table, when, work
from blemish_client.cli.progress import exit_unless_succeeded, wait_for_job
from blemish_client.cli.session import Session
from blemish_client.cli.wording import in_options
from blemish_client.client import Client
from blemish_client.names import job_name, short

group = typer.Typer(
    help="List, show, watch and cancel jobs, and print their logs.", invoke_without_command=True
)

_REFRESH_S = 1.0

JobArgument = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="Name of the job, as printed by `blemish train`, its first digits, or latest."
    ),
]
_FIRST_DIGITS = re.compile(r"(?:jobs/)?([0-9a-f]{4,15})")
Live = Annotated[bool, typer.Option("--live", help="Refresh the table every second until Ctrl-C.")]


@group.callback()
def jobs(ctx: typer.Context, live: Live = False, as_json: Json = False) -> None:
    if not has_subcommand(ctx):
        list_(ctx, live=live, as_json=as_json)


@group.command("list")
def list_(
    ctx: typer.Context,
    states: Annotated[
        list[JobStateChoice] | None,
        typer.Option("--state", help="List only jobs in this state. May be repeated."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of jobs.")] = 50,
    live: Live = False,
    as_json: Json = False,
) -> None:
    """List jobs, the newest first.

    Example: blemish jobs list --state running --live
    """
    session = Session.of(ctx)
    selected = [to_proto(JobState, state) for state in states or ()]
    with session.client() as client:

        def fetch() -> list[Job]:
            return list(islice(client.jobs(states=selected), limit))

        if live:
            _show_live(session, lambda: _jobs_table(fetch()))
        elif as_json:
            for job in fetch():
                emit(job)
        else:
            rows = _jobs_table(fetch())
            session.out.print(rows if rows.row_count else "no jobs; start one with: blemish train")


def _jobs_table(jobs: Iterable[Job]) -> Table:
    rows = table("job", "work", "state", "phase", "created", "ended", "error")
    for job in jobs:
        rows.add_row(
            short(job.name),
            work(job),
            f"{state(job)}, {_queue_position(job)}" if job.queue_position else state(job),
            _phase(job),
            when(job.create_time),
            when(job.end_time),
            in_options(job.error),
        )
    return rows


def _queue_position(job: Job) -> str:
    return "next" if job.queue_position == 1 else f"position {job.queue_position}"


def _show_live(session: Session, fetch_table: Callable[[], Table]) -> None:
    """Refresh a table until the user interrupts."""
    with (
        suppress(KeyboardInterrupt),
        LiveTable(console=session.out, screen=session.out.is_terminal) as screen,
    ):
        while True:
            screen.update(fetch_table(), refresh=True)
            time.sleep(_REFRESH_S)


@group.command()
def watch(ctx: typer.Context, job: JobArgument, as_json: Json = False) -> None:
    """Watch a job until it ends.

    The exit code is 1 if the job did not succeed.

    Example: blemish jobs watch 4f0c2a
    """
    session = Session.of(ctx)
    with session.client() as client:
        if as_json:
            ended = Job()
            for ended in client.watch(_full_name(client, job)):
                emit(ended)
        else:
            ended = wait_for_job(session, client, client.job(_full_name(client, job)))
            session.out.print(f"{ended.name} {state(ended)}", markup=False)
    exit_unless_succeeded([ended])


@group.command()
def show(ctx: typer.Context, job: JobArgument, as_json: Json = False) -> None:
    """Show a job with all its state changes and their causes.

    Example: blemish jobs show 4f0c2a
    """
    session = Session.of(ctx)
    with session.client() as client:
        found = client.job(_full_name(client, job))
    if as_json:
        emit(found)
        return
    session.out.print(f"{found.name}  {work(found)}  {state(found)}", markup=False)
    if found.plan:
        session.out.print(f"plan: {found.plan}", markup=False)
    for warning in found.warnings:
        session.out.print(f"warning: {in_options(warning)}", markup=False)
    if found.queue_position:
        session.out.print(f"waiting for a worker: {_queue_position(found)}", markup=False)
    rows = table("time", "state", "attempt", "worker", "reason", right=("attempt",))
    for event in found.history:
        rows.add_row(
            when(event.time),
            state(event),
            str(event.attempt or ABSENT),
            event.worker or ABSENT,
            in_options(event.reason),
        )
    session.out.print(rows)


@group.command()
def logs(ctx: typer.Context, job: JobArgument, as_json: Json = False) -> None:
    """Print the output of a job's process, until the job ends or Ctrl-C.

    It has the images, settings, phases with times, warnings and figures of the job. The error of a failed
    job comes first.

    Example: blemish jobs logs 4f0c2a
    """
    session = Session.of(ctx)
    with session.client() as client, suppress(KeyboardInterrupt):
        before = client.job(_full_name(client, job))
        if not as_json and before.state == JOB_STATE_FAILED:
            _print_line(session, f"{before.name} failed: {in_options(before.error)}")
        for line in client.log(before):
            if as_json:
                emit(line)
            else:
                _print_line(session, log_line(line.text))


@group.command()
def cancel(ctx: typer.Context, job: JobArgument, as_json: Json = False) -> None:
    """Cancel a job.

    Example: blemish jobs cancel 4f0c2a
    """
    session = Session.of(ctx)
    with session.client() as client:
        cancelled = client.cancel(_full_name(client, job))
    session.print_result(cancelled, f"{cancelled.name} is {state(cancelled)}", as_json=as_json)


def _full_name(client: Client, name: str) -> str:
    """Return the full name of a job; one that fits no job is passed on for the server to reject.

    Raises:
        typer.BadParameter: if it fits several jobs.
    """
    if short(name) == "latest":
        return next((job.name for job in client.jobs()), name)
    digits = _FIRST_DIGITS.fullmatch(name)
    if not digits:
        return name
    fitting = [job.name for job in client.jobs() if job.name.startswith(job_name(digits[1]))]
    if len(fitting) > 1:
        raise typer.BadParameter(f"{name} fits {len(fitting)} jobs; write more of its digits")
    return fitting[0] if fitting else name


def _print_line(session: Session, text: str) -> None:
    session.out.print(text, markup=False, highlight=False, soft_wrap=True)


def _phase(job: Job) -> str:
    """Return the last phase that has begun, with its progress."""
    begun: list[Phase] = [phase for phase in job.phases if phase.done]
    if not begun:
        return ABSENT
    reached = f"{begun[-1].name} {begun[-1].done}/{begun[-1].total or '?'} {begun[-1].unit}"
    if not job.HasField("fraction_done"):
        return reached
    left = timedelta(seconds=round(job.remaining.ToTimedelta().total_seconds()))
    return f"{reached}; {job.fraction_done:.0%}, {left} left"


def workers(ctx: typer.Context, live: Live = False, as_json: Json = False) -> None:
    """List the workers with their devices, jobs and last canary.

    Example: blemish workers
    """
    session = Session.of(ctx)
    with session.client() as client:
        if live:
            _show_live(session, lambda: _workers_table(client.workers()))
            return
        found = client.workers()
    if as_json:
        for worker in found:
            emit(worker)
        return
    rows = _workers_table(found)
    session.out.print(rows if rows.row_count else "no workers; start one with: blemish-worker")


def _workers_table(workers: Iterable[Worker]) -> Table:
    rows = table("worker", "version", "devices", "queues", "jobs", "since", "last canary")
    for worker in workers:
        rows.add_row(
            worker.name,
            worker.version,
            ", ".join(worker.devices),
            ", ".join(worker.queues),
            ", ".join(map(short, worker.jobs)) or ABSENT,
            when(worker.start_time),
            when(worker.canary_time),
        )
    return rows
