# SPDX-License-Identifier: Apache-2.0
"""The form that starts a training, with every setting of the contract."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from nicegui import ui

from blemish.v1.job_pb2 import JOB_PRIORITY_HIGH, JOB_PRIORITY_LOW, JOB_PRIORITY_NORMAL, Job
from blemish_client.client import Client
from blemish_client.errors import BlemishError, Unauthenticated
from blemish_client.names import short
from blemish_client.transport.work_requests import TrainOptions
from blemish_console import texts, theme
from blemish_console.data import train
from blemish_console.pages.training_regions import RegionDrawing
from blemish_console.shell import View, describe, leave

_PRIORITIES = dict(
    zip((JOB_PRIORITY_HIGH, JOB_PRIORITY_NORMAL, JOB_PRIORITY_LOW), texts.PRIORITIES, strict=True)
)
_MAX_SEED = 2**64 - 1


class TrainingForm:
    """The inputs of a training, each with its error."""

    def __init__(self, view: View, frame: ui.element, on_start: Callable[[Job], Awaitable[None]]) -> None:
        """Prepare the form in ``frame``; ``on_start`` receives the accepted job."""
        self._view = view
        self._frame = frame
        self._on_start = on_start
        self._inputs: dict[str, ui.input | ui.select] = {}
        self._groups: dict[str, ui.element] = {}

    async def draw(self) -> None:
        """Read the datasets and the models, and draw the form, or how to upload a dataset."""
        datasets = await self._view.session.call(train.read_datasets)
        models = await self._view.session.call(train.read_model_ids)
        self._frame.clear()
        self._inputs.clear()
        with self._frame, theme.card():
            ui.label(texts.NEW_TRAINING).classes("bl-h1")
            if not datasets:
                theme.empty(texts.NO_DATASETS, texts.NO_DATASETS_LEAD, "photo_library")
                return
            self._problem = ui.element("div").classes("bl-problem").props('role="alert"')
            with self._problem:
                ui.icon("error", size="20px")
                self._problem_text = ui.label()
            self._problem.set_visibility(False)
            choices = {
                each.name: texts.DATASET_CHOICE.format(
                    dataset=short(each.name), count=f"{each.train_images:,}"
                )
                for each in datasets
            }
            chosen = self._view.query.get("dataset", "")
            first = next((name for name in choices if short(name) == short(chosen)), None)
            if first is None and len(choices) == 1:
                first = next(iter(choices))
            self._select("dataset", texts.DATASET_FIELD, choices, first)
            titles = {name: detector.title for name, detector in train.DETECTORS.items()}
            self._select("detector", texts.DETECTOR_FIELD, titles, "patchcore")
            self._inputs["detector"].on_value_change(self._show_detector)
            self._text("model_id", texts.MODEL_FIELD, texts.MODEL_FIELD_LEAD, autocomplete=models)
            self._draw_detectors()
            self._regions = RegionDrawing(self._view, first or "")
            self._inputs["dataset"].on_value_change(
                lambda change: self._regions.choose(str(change.value or ""))
            )
            self._draw_threshold(models)
            self._draw_limits()
            with ui.row().classes("w-full justify-end"):
                self._button = ui.button(
                    texts.START_TRAINING, icon="play_arrow", on_click=self._start
                ).props("unelevated")

    def _draw_detectors(self) -> None:
        for name, detector in train.DETECTORS.items():
            title = texts.SETTINGS_OF.format(detector=detector.title)
            with ui.expansion(title, icon="tune").classes("w-full") as group:
                for setting in train.settings(name):
                    self._draw_setting(setting)
            self._groups[name] = group
        self._show_detector()

    def _draw_setting(self, setting: train.Setting) -> None:
        if setting.kind == "choice":
            choices = {"": texts.DEFAULT, "yes": texts.YES, "no": texts.NO}
            self._select(setting.path, setting.label, choices, "", setting.description)
            return
        is_time = setting.kind == "minutes"
        label = texts.MINUTES.format(name=setting.label) if is_time else setting.label
        self._text(setting.path, label, setting.description)

    def _draw_threshold(self, models: list[str]) -> None:
        leads = train.train_settings()
        with ui.expansion(texts.THRESHOLD_SETTINGS, icon="speed").classes("w-full"):
            name = "target_false_reject_rate"
            self._text(name, texts.TARGET_FIELD, leads[name])
            self._select(
                "promote",
                texts.PROMOTE_FIELD,
                {False: texts.NO, True: texts.YES},
                False,
                leads["promote"],
            )
            targets = {"": texts.TARGET_UNCHANGED, "own": texts.OWN_TARGET, "keep": texts.KEEP_TARGET}
            self._select("promoted_calibration", texts.TARGET_CHOICE, targets, "")
            name = "false_alarms_of"
            choices = {"": texts.NONE} | {model: model for model in models}
            self._select(name, texts.LEARN_FIELD, choices, "", leads[name])
            self._text("seed", texts.SEED_FIELD, texts.SEED_LEAD)

    def _draw_limits(self) -> None:
        with ui.expansion(texts.LIMITS, icon="timer").classes("w-full"):
            self._select(
                "priority", texts.PRIORITY_FIELD, _PRIORITIES, JOB_PRIORITY_NORMAL, texts.PRIORITY_LEAD
            )
            self._text("limits.max_run_time", texts.RUN_TIME_FIELD, texts.RUN_TIME_LEAD)
            self._text("limits.max_memory_bytes", texts.MEMORY_FIELD, texts.MEMORY_LEAD)

    def _text(self, path: str, label: str, lead: str, autocomplete: list[str] | None = None) -> None:
        with ui.element("div").classes("bl-setting"):
            self._inputs[path] = ui.input(
                label, placeholder=texts.DEFAULT, autocomplete=autocomplete
            ).props("dense outlined")
            ui.label(lead).classes("bl-faint")

    def _select(
        self,
        path: str,
        label: str,
        choices: Mapping[Any, str],
        value: object,
        lead: str = "",
    ) -> None:
        with ui.element("div").classes("bl-setting"):
            self._inputs[path] = ui.select(dict(choices), label=label, value=value).props(
                "dense outlined options-dense"
            )
            ui.label(lead).classes("bl-faint")

    def _show_detector(self) -> None:
        for detector, group in self._groups.items():
            group.set_visibility(detector == self._inputs["detector"].value)

    def _texts(self) -> dict[str, str]:
        return {path: str(each.value or "").strip() for path, each in self._inputs.items()}

    async def _start(self) -> None:
        self._clear_errors()
        try:
            dataset, options = self._request()
            options |= await self._regions.options()
        except train.SettingError as error:
            self._show_error(error.path, error.message)
            return
        self._button.set_enabled(False)
        try:
            job = await self._view.session.call(_create, dataset, options)
        except BlemishError as error:
            if isinstance(error, Unauthenticated):
                leave()
                return
            self._show_error(train.path_of(error.field), describe(error))
            return
        finally:
            self._button.set_enabled(True)
        await self._on_start(job)

    def _request(self) -> tuple[str, TrainOptions]:
        values = self._texts()
        if not values["dataset"]:
            raise train.SettingError("dataset", texts.DATASET_MISSING)
        options: TrainOptions = {
            "model_id": values["model_id"],
            "detector": train.parse_settings(values["detector"], values),
            "promote": bool(self._inputs["promote"].value),
            "false_alarms_of": values["false_alarms_of"],
            "priority": self._inputs["priority"].value,
        }
        if options["promote"] and values["promoted_calibration"]:
            options["keep_target"] = values["promoted_calibration"] == "keep"
        if text := values["seed"]:
            options["seed"] = train.parse_whole("seed", text, 0, _MAX_SEED)
        if text := values["target_false_reject_rate"]:
            options["target_false_reject_rate"] = train.parse_number("target_false_reject_rate", text)
        if text := values["limits.max_run_time"]:
            minutes = train.parse_number("limits.max_run_time", text, train.MAX_SECONDS / 60)
            options["max_run_time_s"] = 60 * minutes
        if text := values["limits.max_memory_bytes"]:
            gib = train.parse_number("limits.max_memory_bytes", text, 2**20)
            options["max_memory_bytes"] = round(gib * 2**30)
        return values["dataset"], options

    def _clear_errors(self) -> None:
        self._problem.set_visibility(False)
        self._regions.show_error("")
        for each in self._inputs.values():
            each.error = None

    def _show_error(self, path: str, message: str) -> None:
        """Show an error at the input that it names, or above the form."""
        if (named := self._inputs.get(path)) is not None:
            named.error = message
            for ancestor in named.ancestors():
                if isinstance(ancestor, ui.expansion):
                    ancestor.open()
            return
        if path.partition(".")[0] == "mask":
            self._regions.show_error(message)
            return
        self._problem_text.set_text(message)
        self._problem.set_visibility(True)


def _create(client: Client, dataset: str, options: TrainOptions) -> Job:
    return client.train(dataset, **options)
