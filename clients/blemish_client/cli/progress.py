# SPDX-License-Identifier: Apache-2.0
"""Progress on stderr: a bar for each phase of a job, until it has ended."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from blemish.v1.job_pb2 import JOB_STATE_QUEUED, JOB_STATE_SUCCEEDED, Job, Phase
from blemish_client.cli.failures import INTERRUPTED, UNSUCCESSFUL, complain
from blemish_client.cli.output import emit, state, work
from blemish_client.cli.session import Session
from blemish_client.client import Client
from blemish_client.names import short


class JobBars:
    """The bars of one job, in order of its phases."""

    def __init__(self, progress: Progress, label: str) -> None:
        self._progress = progress
        self._label = label
        self._waiting: TaskID | None = None
        self._bars: dict[str, TaskID] = {}

    def show(self, job: Job) -> None:
        if job.state == JOB_STATE_QUEUED and not self._bars:
            if self._waiting is None:
                self._waiting = self._progress.add_task(
                    f"{self._label} waits for a worker", total=None, count=""
                )
            return
        if self._waiting is not None:
            self._progress.remove_task(self._waiting)
            self._waiting = None
        for phase in job.phases:
            self._show_phase(phase)

    def _show_phase(self, phase: Phase) -> None:
        begun = phase.done > 0
        total = phase.total or None
        count = f"{phase.done}/{phase.total or '?'} {phase.unit}" if begun or phase.total else ""
        if phase.name not in self._bars:
            self._bars[phase.name] = self._progress.add_task(
                f"{self._label} {phase.name}", start=begun, total=total, count=count
            )
        bar = self._bars[phase.name]
        if begun:
            self._progress.start_task(bar)
        self._progress.update(bar, completed=phase.done, total=total, count=count)


@contextmanager
def bars(screen: Console) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=screen) as progress:
        yield progress


def follow(changes: Iterable[Job], screen: Console, label: str) -> Job:
    """Show the changes of a job as bars; return it as it ended."""
    job = Job()
    with bars(screen) as progress:
        shown = JobBars(progress, label)
        for job in changes:
            shown.show(job)
    return job


def wait_for_job(session: Session, client: Client, job: Job) -> Job:
    """Follow a job to its end.

    Raises:
        typer.Exit: with its code, after saying why, if it did not succeed or the person left.
    """
    try:
        ended = follow(client.watch(job), session.err, work(job))
    except KeyboardInterrupt:
        name = short(job.name)
        complain(
            f"{job.name} goes on without you; look again: blemish jobs watch {name}; "
            f"end it: blemish jobs cancel {name}"
        )
        raise typer.Exit(INTERRUPTED) from None
    for warning in ended.warnings:
        session.err.print(f"note: {warning}", markup=False)
    if ended.state != JOB_STATE_SUCCEEDED:
        complain(f"{job.name} ({work(job)}) {state(ended)}{': ' * bool(ended.error)}{ended.error}")
    return ended


def detached(job: Job, *, as_json: bool) -> None:
    """Name a job that is left to itself."""
    if as_json:
        emit(job)
    else:
        print(job.name, flush=True)


def leave_with(ended: Iterable[Job]) -> None:
    """Exit with the code for jobs that did not succeed, if there are any."""
    if any(job.state != JOB_STATE_SUCCEEDED for job in ended):
        raise typer.Exit(UNSUCCESSFUL)
