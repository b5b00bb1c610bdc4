# SPDX-License-Identifier: Apache-2.0
"""``blemish jobs``: list, show, watch and cancel slow work."""

from enum import StrEnum
from itertools import islice
from typing import Annotated

import typer

from blemish.v1.job_pb2 import Job, JobState, Phase
from blemish_client.cli.following import leave_with, see_through
from blemish_client.cli.options import Json
from blemish_client.cli.output import ABSENT, emit, state, table, when, work
from blemish_client.cli.session import Session
from blemish_client.names import short

group = typer.Typer(help="List, watch and cancel jobs.", invoke_without_command=True)

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="As train printed it.")]


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@group.callback()
def jobs(ctx: typer.Context, as_json: Json = False) -> None:
    if ctx.invoked_subcommand is None:
        list_(ctx, as_json=as_json)


@group.command("list")
def list_(
    ctx: typer.Context,
    states: Annotated[
        list[State] | None, typer.Option("--state", help="Only these; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    session = Session.of(ctx)
    wanted = [JobState.Value(f"JOB_STATE_{state.name}") for state in states or ()]
    rows = table("job", "work", "state", "phase", "created", "ended", "error")
    with session.client() as client:
        for job in islice(client.jobs(states=wanted), limit):
            if as_json:
                emit(job)
                continue
            rows.add_row(
                short(job.name),
                work(job),
                state(job),
                _phase(job),
                when(job.create_time),
                when(job.end_time),
                job.error,
            )
    if not as_json:
        session.out.print(rows if rows.row_count else "no jobs yet: blemish train --help")


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
            ended = see_through(session, client, client.job(job))
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
    return f"{begun[-1].name} {begun[-1].done}/{begun[-1].total or '?'} {begun[-1].unit}"
