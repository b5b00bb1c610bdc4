# SPDX-License-Identifier: Apache-2.0
"""Models: all versions, the card and the report of one, and the change of the version in production."""

from contextlib import suppress
from urllib.parse import urlencode

from nicegui import ui

from blemish.v1.access_pb2 import ROLE_OPERATOR
from blemish.v1.model_pb2 import THRESHOLD_RULE_FIXED, Model, ModelVersion
from blemish_client.client import Client
from blemish_client.errors import NotFound
from blemish_client.names import short
from blemish_console import texts, theme
from blemish_console.data import models
from blemish_console.formats import number, share, size, when
from blemish_console.pages.agreement_card import AgreementCard
from blemish_console.pages.import_dialog import import_dialog
from blemish_console.pages.threshold_card import ThresholdCard
from blemish_console.shell import View

_NAMES = {
    "image_auroc": texts.AUROC,
    "detection_rate": texts.DETECTED,
    "false_reject_rate": texts.REJECTED,
    "pixel_auroc": texts.PIXEL_AUROC,
    "aupro": texts.AUPRO,
}
_RATES = ("detection_rate", "false_reject_rate")


async def build(view: View) -> None:
    """Draw the list of models, and the version that the address or a click names."""
    page = _ModelsPage(view)
    await view.section(page.list, page.draw_list)
    if version := view.query.get("version"):
        await page.choose(version)


class _ModelsPage:
    """The list on the left, and the chosen version on the right."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._chosen = ""
        self._models: list[Model] = []
        columns = "grid-template-columns: minmax(0, 6fr) minmax(0, 7fr)"
        with ui.element("div").classes("bl-grid").style(columns):
            with ui.column().classes("w-full bl-tall").style("gap: 12px"):
                if view.session.may(ROLE_OPERATOR):
                    ui.button(texts.IMPORT_MODEL, icon="upload", on_click=self._open_import).props(
                        "flat dense"
                    ).classes("self-end")
                self.list = ui.column().classes("w-full").style("gap: 16px")
            with ui.column().classes("w-full bl-tall").style("gap: 16px"):
                self._card = ui.column().classes("w-full").style("gap: 16px")
        with self._card, theme.card():
            theme.empty(texts.CHOOSE_VERSION, icon="touch_app")

    async def draw_list(self) -> None:
        self._models = await self._view.session.call(models.read_models)
        self._draw_models()

    def _draw_models(self) -> None:
        self.list.clear()
        with self.list:
            if not self._models:
                with theme.card():
                    theme.empty(texts.NO_MODELS, texts.NO_MODELS_LEAD, "category")
            for model in self._models:
                with theme.card():
                    with ui.row().classes("w-full items-center justify-between"):
                        ui.label(short(model.name)).classes("bl-h1")
                        if not model.production:
                            ui.label(texts.NO_PRODUCTION).classes("bl-faint")
                    self._draw_versions(model)

    def _draw_versions(self, model: Model) -> None:
        with ui.element("div").classes("bl-scroll"), ui.element("table").classes("bl-table"):
            with ui.element("thead"), ui.element("tr").classes("bl-row-head"):
                for column in texts.VERSION_COLUMNS:
                    with ui.element("th"):
                        ui.label(column)
            with ui.element("tbody"):
                for version in model.versions:
                    self._draw_version(version)

    def _draw_version(self, version: ModelVersion) -> None:
        row = ui.element("tr").classes("bl-row").props("tabindex=0 role=button")
        if version.name == self._chosen:
            row.classes("bl-row-here")
        row.on("click", lambda: self.choose(version.name))
        row.on("keydown.enter", lambda: self.choose(version.name))
        auroc = version.metrics.image_auroc if version.metrics.HasField("image_auroc") else None
        with row:
            with ui.element("td"):
                ui.label(short(version.name))
            with ui.element("td"):
                _draw_states(version)
            for text in (number(auroc), number(version.calibration.threshold), when(version.create_time)):
                with ui.element("td").classes("bl-number bl-tight"):
                    ui.label(text)

    async def choose(self, version: str) -> None:
        """Show a version by its name, such as models/tile/versions/3 or tile/3."""
        await self._view.section(self._card, lambda: self._show(version))

    async def _show(self, name: str) -> None:
        version = await self._view.session.call(models.read_version, name)
        self._chosen = version.name
        self._draw_models()
        self._card.clear()
        with self._card:
            self._draw_card(version)
        threshold = ThresholdCard(self._view, version, self._calibrated)
        await self._view.section(self._threshold, lambda: threshold.draw(self._threshold))

    async def _calibrated(self, version: ModelVersion) -> None:
        await self._changed(version, texts.CALIBRATED)

    def _draw_card(self, version: ModelVersion) -> None:
        with theme.card():
            with ui.row().classes("w-full items-center"):
                ui.label(short(version.name)).classes("bl-h1")
                _draw_states(version)
                ui.space()
                if self._has_others(version):
                    model, _, own = short(version.name).partition("/")
                    theme.link(texts.COMPARE, f"/compare?{urlencode({'model': model, 'b': own})}")
            if self._view.session.may(ROLE_OPERATOR):
                with ui.row().classes("w-full items-center").style("gap: 8px"):
                    self._draw_actions(version)
            ui.label(texts.FIGURES).classes("bl-title")
            _draw_figures(version)
            ui.label(texts.JUDGES_BY).classes("bl-title")
            theme.facts(_calibration_facts(version))
            ui.label(texts.FACTS).classes("bl-title")
            theme.facts(_training_facts(version))
        if version.shadow:
            AgreementCard(self._view, version, self._production_of(version))
        self._threshold = ui.column().classes("w-full bl-threshold-card")
        with theme.card(texts.REPORT):
            # Reports run in an origin of their own, without access to this page.
            report = ui.element("iframe").classes("bl-report")
            report.props["sandbox"] = "allow-scripts allow-popups"
            report.props["title"] = texts.REPORT
            report.props["src"] = f"{self._view.root_path}/reports/{version.name}"

    def _draw_actions(self, version: ModelVersion) -> None:
        if not version.production:
            production = self._production_of(version)
            is_older = models.is_older(version.name, production)
            ui.button(
                texts.ROLL_BACK if is_older else texts.PROMOTE,
                icon="undo" if is_older else "verified",
                on_click=lambda: self._ask_for_promotion(version),
            ).props("unelevated dense padding='4px 12px'")
            if production:
                ui.button(
                    texts.STOP_SHADOW if version.shadow else texts.START_SHADOW,
                    on_click=lambda: self._set_shadow(version),
                ).props("flat dense")
        ui.button(texts.UNPIN if version.pinned else texts.PIN, on_click=lambda: self._pin(version)).props(
            "flat dense"
        )
        export = ui.button(texts.EXPORT_MODEL, icon="download").props("flat dense")
        export.props["href"] = f"{self._view.root_path}/exports/{version.name}"
        export.props["download"] = ""

    def _has_others(self, version: ModelVersion) -> bool:
        model = version.name.partition("/versions/")[0]
        return any(each.name == model and len(each.versions) > 1 for each in self._models)

    async def _open_import(self) -> None:
        """Show the dialog of an import, and the imported version at its end."""
        if version := await import_dialog(self._view):
            await self.draw_list()
            ui.notify(texts.IMPORTED.format(version=short(version)), type="positive", position="top")
            await self.choose(version)

    def _production_of(self, version: ModelVersion) -> str:
        model = version.name.partition("/versions/")[0]
        return next((each.production for each in self._models if each.name == model), "")

    async def _ask_for_promotion(self, version: ModelVersion) -> None:
        """Ask before a change of the version in production, with its effect."""
        replaced: list[ModelVersion] = []

        async def read() -> None:
            model = version.name.partition("/versions/")[0]
            with suppress(NotFound):  # none is in production
                replaced.append(await self._view.session.call(models.read_version, f"{model}@production"))

        if not await self._view.attempt(read):
            return
        current = replaced[0] if replaced else None
        is_older = models.is_older(version.name, current.name if current else "")
        title = texts.CONFIRM_ROLL_BACK if is_older else texts.CONFIRM_PROMOTION
        with ui.dialog() as dialog, ui.card().classes("bl-card").style("max-width: 520px"):
            ui.label(title.format(version=short(version.name))).classes("bl-h1")
            effect = texts.PROMOTION_EFFECT if current else texts.FIRST_PROMOTION_EFFECT
            replaced_name = short(current.name) if current else ""
            ui.label(effect.format(version=short(version.name), replaced=replaced_name))
            keep: ui.radio | None = None
            author: ui.input | None = None
            if current is not None:
                choices = {False: texts.OWN_TARGET, True: texts.KEEP_TARGET}
                keep = ui.radio(choices, value=models.is_set_by_person(current.calibration))
                if not self._view.session.caller:
                    author = (
                        ui.input(texts.NAME).props("dense outlined").bind_visibility_from(keep, "value")
                    )
            with ui.row().classes("w-full justify-end"):
                ui.button(texts.CANCEL, on_click=lambda: dialog.submit(False)).props("flat")
                ui.button(
                    texts.ROLL_BACK if is_older else texts.PROMOTE, on_click=lambda: dialog.submit(True)
                ).props("unelevated")
        if await dialog:
            keeps = bool(keep.value) if keep is not None else False
            name = (author.value or "").strip() if author is not None else ""
            if keeps and author is not None and not name:
                ui.notify(texts.NAME_MISSING, type="warning", position="top")
            else:
                await self._promote(version, keep_target=keeps, author=name)
        dialog.delete()

    async def _promote(self, version: ModelVersion, *, keep_target: bool, author: str) -> None:
        async def promote() -> None:
            await self._view.session.call(
                Client.promote, version.name, keep_target=keep_target, author=author
            )
            await self._changed(version, texts.PROMOTED)

        await self._view.attempt(promote)

    async def _set_shadow(self, version: ModelVersion) -> None:
        async def change() -> None:
            await self._view.session.call(Client.shadow, version.name, not version.shadow)
            await self._changed(version, texts.SHADOW_STOPPED if version.shadow else texts.SHADOW_STARTED)

        await self._view.attempt(change)

    async def _pin(self, version: ModelVersion) -> None:
        async def change() -> None:
            await self._view.session.call(Client.pin, version.name, not version.pinned)
            await self._changed(version, texts.WAS_UNPINNED if version.pinned else texts.WAS_PINNED)

        await self._view.attempt(change)

    async def _changed(self, version: ModelVersion, text: str) -> None:
        ui.notify(text.format(version=short(version.name)), type="positive", position="top")
        await self.draw_list()
        await self._show(version.name)


def _draw_states(version: ModelVersion) -> None:
    for sign, holds in (
        (theme.PRODUCTION, version.production),
        (theme.SHADOW, version.shadow),
        (theme.PINNED, version.pinned),
    ):
        if holds:
            theme.chip(sign)


def _draw_figures(version: ModelVersion) -> None:
    if not version.HasField("metrics"):
        ui.label(texts.NO_FIGURES).classes("bl-faint")
        return
    with ui.row().style("gap: 36px"):
        for figure in models.figures(version.metrics):
            as_text = share if figure.name in _RATES else number
            with ui.column().style("gap: 0"):
                ui.label(as_text(figure.value)).classes("bl-figure")
                ui.label(_NAMES[figure.name]).classes("bl-faint")
                if figure.interval is not None:
                    low, high = as_text(figure.interval.low), as_text(figure.interval.high)
                    ui.label(texts.INTERVAL.format(low=low, high=high)).classes("bl-faint").style(
                        "font-size: 12.5px"
                    )


def _calibration_facts(version: ModelVersion) -> list[tuple[str, str]]:
    calibration = version.calibration
    is_fixed = calibration.rule == THRESHOLD_RULE_FIXED
    target = texts.FIXED_RULE if is_fixed else share(calibration.target_false_reject_rate)
    rows = [
        (texts.THRESHOLD, number(calibration.threshold)),
        (texts.TARGET_RATE, target),
        (texts.WARRANTED_RATE, share(calibration.warranted_false_reject_rate)),
        (texts.HELD_OUT, str(calibration.held_out_images)),
    ]
    if models.is_set_by_person(calibration):
        comment = f": {calibration.comment}" if calibration.comment else ""
        rows.append((texts.AUTHOR, f"{calibration.author}, {when(calibration.update_time)}{comment}"))
    return rows


def _training_facts(version: ModelVersion) -> list[tuple[str, str]]:
    return [
        (texts.DATASET, short(version.dataset)),
        (texts.DETECTOR, version.detector),
        (texts.CREATED, when(version.create_time)),
        (texts.SIZE, size(version.size_bytes)),
        *sorted(version.training.items()),
    ]
