# SPDX-License-Identifier: Apache-2.0
"""``blemish jobs``: list, show, watch and cancel slow work; ``blemish workers``: who does it."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from enum import StrEnum
from itertools import islice
from typing import Annotated

import typer
from rich.live import Live as LiveTable
from rich.table import Table

from blemish.v1.job_pb2 import Job, JobState, Phase, Worker
from blemish_client.cli.options import Json
from blemish_client.cli.output import ABSENT, emit, state, table, when, work
from blemish_client.cli.progress import leave_with, wait_for_job
from blemish_client.cli.session import Session
from blemish_client.names import short

group = typer.Typer(
    help="List, watch and cancel jobs, and read what they write.", invoke_without_command=True
)

_REFRESH_S = 1.0

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="As train printed it.")]


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


Live = Annotated[bool, typer.Option("--live", help="Show the table anew every second until Ctrl-C.")]


@group.callback()
def jobs(ctx: typer.Context, live: Live = False, as_json: Json = False) -> None:
    if ctx.invoked_subcommand is None:
        list_(ctx, live=live, as_json=as_json)


@group.command("list")
def list_(
    ctx: typer.Context,
    states: Annotated[
        list[State] | None, typer.Option("--state", help="Only these; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
    live: Live = False,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    session = Session.of(ctx)
    wanted = [JobState.Value(f"JOB_STATE_{state.name}") for state in states or ()]
    with session.client() as client:

        def found() -> list[Job]:
            return list(islice(client.jobs(states=wanted), limit))

        if live:
            _show_live(session, lambda: _table_of(found()))
        elif as_json:
            for job in found():
                emit(job)
        else:
            rows = _table_of(found())
            session.out.print(rows if rows.row_count else "no jobs yet: blemish train --help")


def _table_of(jobs: Iterable[Job]) -> Table:
    rows = table("job", "work", "state", "phase", "created", "ended", "error")
    for job in jobs:
        rows.add_row(
            short(job.name),
            work(job),
            f"{state(job)}, {_place(job)}" if job.queue_position else state(job),
            _phase(job),
            when(job.create_time),
            when(job.end_time),
            job.error,
        )
    return rows


def _place(job: Job) -> str:
    return "next" if job.queue_position == 1 else f"place {job.queue_position}"


def _show_live(session: Session, look: Callable[[], Table]) -> None:
    """Show a table anew until the person has seen enough."""
    with (
        suppress(KeyboardInterrupt),
        LiveTable(console=session.out, screen=session.out.is_terminal) as screen,
    ):
        while True:
            screen.update(look(), refresh=True)
            time.sleep(_REFRESH_S)


@group.command()
def watch(ctx: typer.Context, job: JobArgument, as_json: Json = False) -> None:
    """Watch a job until it has ended; the exit code says whether it succeeded."""
    session = Session.of(ctx)
    with session.client() as client:
        if as_json:
            ended = Job()
            for ended in client.watch(job):
                emit(ended)
        else:
            ended = wait_for_job(session, client, client.job(job))
            session.out.print(f"{ended.name} {state(ended)}", markup=False)
    leave_with([ended])


@group.command()
def show(ctx: typer.Context, job: JobArgument, as_json: Json = False) -> None:
    """Show what became of a job: every move, by whom and why."""
    session = Session.of(ctx)
    with session.client() as client:
        found = client.job(job)
    if as_json:
        emit(found)
        return
    session.out.print(f"{found.name}  {work(found)}  {state(found)}", markup=False)
    for warning in found.warnings:
        session.out.print(f"warning: {warning}", markup=False)
    if found.queue_position:
        session.out.print(f"waits for a worker: {_place(found)}", markup=False)
    rows = table("when", "became", "attempt", "worker", "why", right=("attempt",))
    for event in found.history:
        rows.add_row(
            when(event.time),
            state(event),
            str(event.attempt or ABSENT),
            event.worker or ABSENT,
            event.reason,
        )
    session.out.print(rows)


@group.command()
def logs(ctx: typer.Context, job: JobArgument, as_json: Json = False) -> None:
    """Print what a job's process has written, and what it writes until it has ended or Ctrl-C."""
    session = Session.of(ctx)
    with session.client() as client, suppress(KeyboardInterrupt):
        for line in client.log(job):
            if as_json:
                emit(line)
            else:
                session.out.print(line.text, markup=False, highlight=False, soft_wrap=True)


@group.command()
def cancel(ctx: typer.Context, job: JobArgument, as_json: Json = False) -> None:
    """Ask a job to end."""
    session = Session.of(ctx)
    with session.client() as client:
        asked = client.cancel(job)
    if as_json:
        emit(asked)
    else:
        session.out.print(f"{asked.name} is {state(asked)}", markup=False)


def _phase(job: Job) -> str:
    """Say where a job is: its last phase that has begun."""
    begun: list[Phase] = [phase for phase in job.phases if phase.done]
    if not begun:
        return ABSENT
    reached = f"{begun[-1].name} {begun[-1].done}/{begun[-1].total or '?'} {begun[-1].unit}"
    if not job.HasField("fraction_done"):
        return reached
    left = timedelta(seconds=round(job.remaining.ToTimedelta().total_seconds()))
    return f"{reached}; {job.fraction_done:.0%}, {left} left"


def workers(ctx: typer.Context, live: Live = False, as_json: Json = False) -> None:
    """List the workers: what they run on, what they work on, and whether work comes through."""
    session = Session.of(ctx)
    with session.client() as client:
        if live:
            _show_live(session, lambda: _table_of_workers(client.workers()))
            return
        found = client.workers()
    if as_json:
        for worker in found:
            emit(worker)
        return
    rows = _table_of_workers(found)
    session.out.print(rows if rows.row_count else "no worker is there: start one with blemish-worker")


def _table_of_workers(workers: Iterable[Worker]) -> Table:
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
