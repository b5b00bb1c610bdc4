# SPDX-License-Identifier: Apache-2.0
"""Train: all jobs with their progress and logs, and a form that starts a training."""

from urllib.parse import quote

from nicegui import ui

from blemish.v1.access_pb2 import ROLE_OPERATOR
from blemish.v1.job_pb2 import (
    JOB_STATE_CANCELLING,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    Job,
    Phase,
)
from blemish_client.client import Client
from blemish_client.errors import BlemishError, Unauthenticated
from blemish_client.names import short
from blemish_console import texts, theme
from blemish_console.data import learn, train
from blemish_console.data.job_watch import JobWatch
from blemish_console.formats import ABSENT, duration, log_line, share, when
from blemish_console.pages.shadow_offer import draw_offer
from blemish_console.pages.training_form import TrainingForm
from blemish_console.shell import View, describe, leave
from blemish_console.theme import Sign

_REFRESH_S = 3.0
_REDRAW_S = 0.5
_SHOWN_LINES = 500


async def build(view: View) -> None:
    """Draw the list of jobs, and the job that the address or a click names, or the form."""
    page = _TrainPage(view)
    await view.section(page.list, page.read_list)
    if job := view.query.get("job"):
        await page.choose(job)
    else:
        await page.show_form()


class _TrainPage:
    """The jobs on the left, and the chosen job or the form on the right."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._overview: train.Overview | None = None
        self._chosen = ""
        self._watch: JobWatch | None = None
        self._drawn_head: tuple[object, ...] = ()
        columns = "grid-template-columns: minmax(0, 5fr) minmax(0, 7fr)"
        with ui.element("div").classes("bl-grid").style(columns):
            with ui.column().classes("w-full bl-tall").style("gap: 16px"):
                self.list = ui.column().classes("w-full").style("gap: 16px")
            with ui.column().classes("w-full bl-tall").style("gap: 16px"):
                self._detail = ui.column().classes("w-full").style("gap: 16px")
        ui.timer(_REFRESH_S, self._refresh, immediate=False)
        ui.timer(_REDRAW_S, self._show_changes)
        ui.context.client.on_delete(self._stop)

    async def read_list(self) -> None:
        """Read the jobs and the workers, and draw them if they changed."""
        found = await self._view.session.call(train.read_overview)
        if found != self._overview:
            self._overview = found
            self._draw_list()

    async def _refresh(self) -> None:
        if self._view.session.failure is None:
            await self._view.quietly(self.read_list)

    def _draw_list(self) -> None:
        assert self._overview is not None
        self.list.clear()
        with self.list, theme.card():
            with ui.row().classes("w-full items-center"):
                ui.label(texts.JOBS).classes("bl-title")
                ui.space()
                if self._view.session.may(ROLE_OPERATOR):
                    ui.button(texts.NEW_TRAINING, icon="add", on_click=self.show_form).props("flat dense")
            if not self._overview.jobs:
                theme.empty(texts.NO_JOBS, texts.NO_JOBS_LEAD, "model_training")
            else:
                self._draw_jobs(self._overview.jobs)
        with self.list, theme.card(texts.WORKERS):
            if not self._overview.workers:
                theme.problem(texts.NO_WORKERS, is_caution=True)
            else:
                rows: list[tuple[str | Sign, ...]] = [
                    (
                        worker.name,
                        ", ".join(worker.queues),
                        ", ".join(worker.devices),
                        ", ".join(map(_short_id, worker.jobs)) or texts.NONE,
                    )
                    for worker in self._overview.workers
                ]
                theme.table(texts.WORKER_COLUMNS, rows)

    def _draw_jobs(self, jobs: list[Job]) -> None:
        with ui.element("div").classes("bl-scroll"), ui.element("table").classes("bl-table"):
            with ui.element("thead"), ui.element("tr").classes("bl-row-head"):
                for column in texts.JOB_COLUMNS:
                    with ui.element("th"):
                        ui.label(column)
            with ui.element("tbody"):
                for job in jobs:
                    self._draw_row(job)

    def _draw_row(self, job: Job) -> None:
        row = ui.element("tr").classes("bl-row").props("tabindex=0 role=button")
        if job.name == self._chosen:
            row.classes("bl-row-here")
        row.on("click", lambda: self.choose(job.name))
        row.on("keydown.enter", lambda: self.choose(job.name))
        with row:
            with ui.element("td"):
                ui.label(_title(job))
            with ui.element("td"):
                theme.chip(theme.job_sign(job.state))
            with ui.element("td").classes("bl-number bl-tight"):
                ui.label(_progress(job))
            with ui.element("td").classes("bl-number bl-tight"):
                ui.label(when(job.create_time))

    async def choose(self, job: str) -> None:
        """Show a job by its name or id."""
        await self._view.section(self._detail, lambda: self._open(job))

    async def show_form(self) -> None:
        """Show the form for a new training, or for other roles the hint to choose a job."""
        self._stop()
        self._chosen = ""
        if self._overview is not None:
            self._draw_list()
        if self._view.session.may(ROLE_OPERATOR):
            form = TrainingForm(self._view, self._detail, self._started)
            await self._view.section(self._detail, form.draw)
            return
        self._detail.clear()
        with self._detail, theme.card():
            theme.empty(texts.CHOOSE_JOB, icon="touch_app")

    async def _started(self, job: Job) -> None:
        ui.notify(texts.TRAINING_STARTED, type="positive", position="top")
        await self._view.quietly(self.read_list)
        await self.choose(job.name)

    async def _open(self, name: str) -> None:
        job = await self._view.session.call(train.read_job, name)
        self._stop()
        self._chosen = job.name
        if self._overview is not None:
            self._draw_list()
        self._detail.clear()
        self._drawn_head = ()
        with self._detail:
            with theme.card():
                self._head = ui.column().classes("w-full").style("gap: 10px")
                self._offer = ui.column().classes("w-full").style("gap: 10px")
                ui.label(texts.PHASES).classes("bl-title")
                self._phases = ui.column().classes("w-full").style("min-height: 150px")
                self._facts = ui.column().classes("w-full")
            with theme.card(texts.LOG):
                self._no_log = ui.label(texts.NO_LOG).classes("bl-faint")
                self._log = ui.log(max_lines=_SHOWN_LINES).classes("bl-log")
        self._watch = JobWatch(self._view.session.open_job_client, job, _SHOWN_LINES)
        self._draw(job)
        self._watch.start()

    def _stop(self) -> None:
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    def _show_changes(self) -> None:
        """Draw what the watch has received since the last time."""
        watch = self._watch
        if watch is None:
            return
        if watch.failure is not None:
            self._fail(watch.failure)
            return
        if (job := watch.take_job()) is not None:
            self._draw(job)
        if lines := watch.take_lines():
            self._no_log.set_visibility(False)
            for line in lines:
                self._log.push(log_line(line))

    def _fail(self, error: BlemishError) -> None:
        self._stop()
        if isinstance(error, Unauthenticated):
            leave()
            return
        with self._head:
            theme.problem(describe(error))

    def _draw(self, job: Job) -> None:
        head = (job.state, job.error, tuple(job.warnings), job.queue_position)
        if head != self._drawn_head:
            self._drawn_head = head
            self._head.clear()
            with self._head:
                self._draw_head(job)
        self._phases.clear()
        with self._phases:
            _draw_phases(job)
        self._facts.clear()
        with self._facts:
            theme.facts(_facts(job))
        if job.state == JOB_STATE_SUCCEEDED and job.WhichOneof("work") == "train":
            with self._offer:
                ui.timer(0, lambda: self._view.quietly(lambda: self._show_offer(job)), once=True)

    async def _show_offer(self, job: Job) -> None:
        """Draw the place of the version among those of its model."""
        offer = await self._view.session.call(learn.read_offer, job)
        if offer is None or self._chosen != job.name:
            return
        self._offer.clear()
        with self._offer:
            draw_offer(self._view, offer, lambda: self._show_offer(job))

    def _draw_head(self, job: Job) -> None:
        with ui.row().classes("w-full items-center"):
            ui.label(_title(job)).classes("bl-h1")
            theme.chip(theme.job_sign(job.state))
            ui.space()
            if not train.is_ended(job) and self._view.session.may(ROLE_OPERATOR):
                is_cancelling = job.state == JOB_STATE_CANCELLING
                cancel = ui.button(
                    texts.CANCEL_JOB, icon="block", on_click=lambda: self._ask_to_cancel(job)
                )
                cancel.props("outline dense padding='4px 12px' color=negative").set_enabled(
                    not is_cancelling
                )
            version = job.result.model_version
            if version and job.WhichOneof("work") != "train":
                theme.link(
                    texts.SHOW_VERSION.format(version=short(version)), f"/models?version={quote(version)}"
                )
        if job.error:
            theme.problem(job.error)
        for warning in job.warnings:
            theme.problem(warning, is_caution=True)

    async def _ask_to_cancel(self, job: Job) -> None:
        with ui.dialog() as dialog, ui.card().classes("bl-card").style("max-width: 520px"):
            ui.label(texts.CONFIRM_CANCEL).classes("bl-h1")
            ui.label(_title(job))
            ui.label(texts.CANCEL_EFFECT).classes("bl-faint")
            with ui.row().classes("w-full justify-end"):
                ui.button(texts.KEEP_RUNNING, on_click=lambda: dialog.submit(False)).props("flat")
                ui.button(texts.CANCEL_JOB, on_click=lambda: dialog.submit(True)).props(
                    "unelevated color=negative"
                )

        async def cancel() -> None:
            await self._view.session.call(Client.cancel, job.name)
            ui.notify(texts.CANCEL_SENT, position="top")
            await self.read_list()

        if await dialog:
            await self._view.attempt(cancel)
        dialog.delete()


def _short_id(name: str) -> str:
    return short(name)[:8]


def _title(job: Job) -> str:
    kind = job.WhichOneof("work")
    if kind == "train":
        detector = train.detector_title(job.train.WhichOneof("detector") or "")
        return texts.TRAINING.format(dataset=short(job.train.dataset), detector=detector)
    if kind == "evaluate":
        return texts.EVALUATION.format(model=short(job.evaluate.model), dataset=short(job.evaluate.dataset))
    source = texts.KEPT_FRAMES if job.embed.kept_frames else short(job.embed.dataset)
    return texts.INDEXING.format(dataset=source, model=short(job.embed.model))


def _progress(job: Job) -> str:
    if job.state == JOB_STATE_QUEUED and job.queue_position:
        return texts.QUEUE_POSITION.format(position=job.queue_position)
    if job.state != JOB_STATE_RUNNING:
        return ""
    parts = []
    if job.HasField("fraction_done"):
        parts.append(share(job.fraction_done))
    if job.HasField("remaining"):
        parts.append(texts.TIME_LEFT.format(time=duration(job.remaining.ToTimedelta().total_seconds())))
    return ", ".join(parts)


def _draw_phases(job: Job) -> None:
    if job.HasField("fraction_done") and not train.is_ended(job):
        with ui.row().classes("w-full items-center").style("gap: 14px"):
            ui.linear_progress(job.fraction_done, size="10px", show_value=False).props("rounded").classes(
                "col"
            )
            ui.label(_progress(job)).classes("bl-number")
    if not job.phases:
        ui.label(_progress(job) or ABSENT).classes("bl-faint")
        return
    with ui.element("table").classes("bl-table"):
        with ui.element("thead"), ui.element("tr"):
            for column in texts.PHASE_COLUMNS:
                with ui.element("th"):
                    ui.label(column)
        with ui.element("tbody"):
            for phase in job.phases:
                _draw_phase(phase)
    if job.plan:
        ui.label(job.plan).classes("bl-faint")


def _draw_phase(phase: Phase) -> None:
    with ui.element("tr"):
        with ui.element("td"):
            ui.label(phase.name)
        with ui.element("td"):
            done = phase.done / phase.total if phase.total else 0.0
            ui.linear_progress(min(done, 1.0), size="8px", show_value=False).props("rounded").classes(
                "bl-bar"
            ).style("margin-top: 7px")
        with ui.element("td").classes("bl-number bl-tight"):
            ui.label(
                f"{phase.done:,} / {phase.total:,} {phase.unit}"
                if phase.total
                else f"{phase.done:,} {phase.unit}"
            )
        with ui.element("td").classes("bl-number bl-tight"):
            has_time = phase.HasField("remaining") and phase.done < phase.total
            ui.label(duration(phase.remaining.ToTimedelta().total_seconds()) if has_time else ABSENT)


def _facts(job: Job) -> list[tuple[str, str]]:
    rows = [(texts.JOB, short(job.name))]
    if job.WhichOneof("work") == "train" and job.train.model_id:
        rows.append((texts.TRAINED_MODEL, job.train.model_id))
    if job.WhichOneof("work") == "train" and job.train.HasField("mask"):
        mask = job.train.mask
        rows.append((texts.JOB_REGION, texts.REGION_SHARE.format(share=share(mask.ignored_share))))
        if mask.HasField("alignment"):
            rows.append((texts.JOB_REFERENCE, mask.alignment.reference))
    rows += [
        (texts.WORKER, train.worker_of(job) or ABSENT),
        (texts.ATTEMPT, str(job.attempt) if job.attempt else ABSENT),
        (texts.CREATED, when(job.create_time)),
        (texts.STARTED, when(job.start_time)),
        (texts.ENDED, when(job.end_time)),
    ]
    return rows
