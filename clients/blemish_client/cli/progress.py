# SPDX-License-Identifier: Apache-2.0
"""Progress of jobs on stderr, with a bar per phase."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from blemish.v1.job_pb2 import JOB_STATE_QUEUED, JOB_STATE_SUCCEEDED, Job, Phase
from blemish_client.cli.failures import INTERRUPTED, UNSUCCESSFUL, print_error
from blemish_client.cli.output import state, work
from blemish_client.cli.session import Session
from blemish_client.cli.wording import in_options
from blemish_client.client import Client
from blemish_client.names import short


class JobBars:
    """The progress bars of one job, in the order of its phases."""

    def __init__(self, progress: Progress, label: str) -> None:
        self._progress = progress
        self._label = label
        self._queued: TaskID | None = None
        self._bars: dict[str, TaskID] = {}
        self._plan = ""

    def show(self, job: Job) -> None:
        if job.state == JOB_STATE_QUEUED and not self._bars:
            if self._queued is None:
                self._queued = self._progress.add_task(
                    f"{self._label} is waiting for a worker", total=None, count=""
                )
            return
        if self._queued is not None:
            self._progress.remove_task(self._queued)
            self._queued = None
        if job.plan != self._plan:
            self._plan = job.plan
            self._progress.console.print(f"{self._label}: {job.plan}", markup=False)
        for phase in job.phases:
            self._show_phase(phase)

    def _show_phase(self, phase: Phase) -> None:
        has_begun = phase.done > 0
        total = phase.total or None
        count = f"{phase.done}/{phase.total or '?'} {phase.unit}" if has_begun or phase.total else ""
        if phase.name not in self._bars:
            self._bars[phase.name] = self._progress.add_task(
                f"{self._label} {phase.name}", start=has_begun, total=total, count=count
            )
        bar = self._bars[phase.name]
        if has_begun:
            self._progress.start_task(bar)
        self._progress.update(bar, completed=phase.done, total=total, count=count)


@contextmanager
def _progress_bars(console: Console) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield progress


def follow(changes: Iterable[Job], console: Console, label: str) -> Job:
    """Show the changes of a job as bars and return its last state."""
    job = Job()
    with _progress_bars(console) as progress:
        bars = JobBars(progress, label)
        for job in changes:
            bars.show(job)
    return job


def wait_for_job(session: Session, client: Client, job: Job) -> Job:
    """Show the progress of a job until it ends, and return it.

    Raises:
        typer.Exit: if the user interrupts. The job continues.
    """
    try:
        ended = follow(client.watch(job), session.err, work(job))
    except KeyboardInterrupt:
        name = short(job.name)
        print_error(
            f"{job.name} continues in the background; watch it: blemish jobs watch {name}; "
            f"cancel it: blemish jobs cancel {name}"
        )
        raise typer.Exit(INTERRUPTED) from None
    for warning in ended.warnings:
        session.err.print(f"warning: {in_options(warning)}", markup=False)
    if ended.state != JOB_STATE_SUCCEEDED:
        print_error(
            f"{job.name} ({work(job)}) {state(ended)}{': ' * bool(ended.error)}{in_options(ended.error)}"
        )
    return ended


def exit_unless_succeeded(jobs: Iterable[Job]) -> None:
    """Exit with code 1 if any of the jobs did not succeed."""
    if any(job.state != JOB_STATE_SUCCEEDED for job in jobs):
        raise typer.Exit(UNSUCCESSFUL)
