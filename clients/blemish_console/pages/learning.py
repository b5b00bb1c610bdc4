# SPDX-License-Identifier: Apache-2.0
"""The training that learns from labels: the question before it, its progress, and its version."""

from nicegui import ui

from blemish.v1.job_pb2 import JOB_STATE_CANCELLED, JOB_STATE_FAILED, Job
from blemish_client.names import short
from blemish_console import texts, theme
from blemish_console.data import learn, train
from blemish_console.data.learn import CannotLearn, LearnPlan, Standing
from blemish_console.formats import share
from blemish_console.pages.shadow_offer import draw_offer
from blemish_console.shell import View

_REFRESH_S = 2.0
_SHOWN_PLACES = (Standing.NEW, Standing.SHADOW, Standing.ALONE)
"""Places of a version that a review still has to do with."""


class LearningPanel:
    """The newest of these trainings of a model, which is found again after a reload of the page."""

    def __init__(self, view: View, model: str) -> None:
        """Reserve the place of the panel, which is hidden while there is nothing to show."""
        self._view = view
        self._model = model
        self._job: Job | None = None
        self._frame = theme.card()
        self._frame.set_visibility(False)
        ui.timer(_REFRESH_S, self._refresh, immediate=False)

    async def draw(self) -> None:
        """Find the training and draw it."""

        async def read() -> None:
            await self._show(await self._view.session.call(learn.find_latest, self._model))

        await self._view.quietly(read)

    async def ask(self) -> None:
        """Start a training after a question with the images that it takes along."""
        await self._view.attempt(self._ask)

    async def _ask(self) -> None:
        try:
            plan = await self._view.session.call(learn.read_plan, self._model)
        except CannotLearn as error:
            ui.notify(str(error), type="warning", position="top", multi_line=True, close_button=True)
            return
        with ui.dialog() as dialog, ui.card().classes("bl-card").style("max-width: 620px"):
            _draw_plan(plan)
            with ui.row().classes("w-full justify-end"):
                ui.button(texts.CANCEL, on_click=lambda: dialog.submit(False)).props("flat")
                ui.button(
                    texts.START_TRAINING, icon="play_arrow", on_click=lambda: dialog.submit(True)
                ).props("unelevated")

        async def start() -> None:
            await self._show(await self._view.session.call(learn.start, plan))
            ui.notify(texts.TRAINING_STARTED, type="positive", position="top")

        if await dialog:
            await self._view.attempt(start)
        dialog.delete()

    async def _refresh(self) -> None:
        job = self._job
        if job is None or train.is_ended(job) or self._view.session.failure is not None:
            return

        async def read() -> None:
            await self._show(await self._view.session.call(train.read_job, job.name))

        await self._view.quietly(read)

    async def _show(self, job: Job | None) -> None:
        offer = None
        if job is not None and train.is_ended(job):
            offer = await self._view.session.call(learn.read_offer, job)
        if job is not None and job == self._job:
            return
        self._job = job
        self._frame.clear()
        is_over = job is None or job.state == JOB_STATE_CANCELLED
        is_settled = offer is not None and offer.standing not in _SHOWN_PLACES
        self._frame.set_visibility(not is_over and not is_settled)
        if job is None:
            return
        with self._frame:
            with ui.row().classes("w-full items-center").style("gap: 12px"):
                ui.label(texts.LEARNING).classes("bl-title")
                theme.chip(theme.job_sign(job.state))
                if not train.is_ended(job):
                    ui.label(_progress(job)).classes("bl-number")
                ui.space()
                theme.link(texts.SHOW_JOB, f"/train?job={short(job.name)}")
            if job.state == JOB_STATE_FAILED:
                theme.problem(job.error)
            for warning in job.warnings:
                if warning.startswith("trained on "):
                    ui.label(warning).classes("bl-faint")
            if offer is not None:
                draw_offer(self._view, offer, self._redraw)

    async def _redraw(self) -> None:
        self._job = None
        await self.draw()


def _progress(job: Job) -> str:
    return share(job.fraction_done) if job.HasField("fraction_done") else ""


def _draw_plan(plan: LearnPlan) -> None:
    base, dataset = short(plan.base.name), short(plan.dataset.name)
    model = base.partition("/")[0]
    ui.label(texts.CONFIRM_LEARN.format(count=plan.false_alarms, good=plan.good)).classes("bl-h1")
    ui.label(
        texts.LEARN_EFFECT.format(
            dataset=dataset, count=f"{plan.dataset.train_images:,}", model=model, version=base
        )
    )
    rows: list[tuple[str | theme.Sign, ...]] = [
        (
            texts.FROM_DATASET.format(dataset=each.source)
            if each.is_dataset
            else each.source or texts.NO_CAMERA,
            str(each.false_alarms),
            str(each.good),
        )
        for each in plan.sources
    ]
    if len(rows) > 1:
        rows.append((texts.ALL, str(plan.false_alarms), str(plan.good)))
    theme.table(texts.LEARN_COLUMNS, rows)
    if plan.in_dataset:
        ui.label(texts.LEFT_OUT_OF_LEARNING.format(count=plan.in_dataset, dataset=dataset))
    target = plan.options.get("target_false_reject_rate", 0.0)
    theme.facts(
        [
            (texts.DATASET, dataset),
            (texts.DETECTOR, train.detector_title(plan.base.detector)),
            (
                texts.SETTINGS,
                (texts.SETTINGS_KEPT if plan.has_settings else texts.SETTINGS_LOST).format(version=base),
            ),
            *([(texts.TARGET_RATE, share(target))] if target else []),
        ]
    )
    ui.label(texts.LEARN_SCOPE.format(model=model)).classes("bl-faint")
