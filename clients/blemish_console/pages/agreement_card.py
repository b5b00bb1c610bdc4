# SPDX-License-Identifier: Apache-2.0
"""The agreement of a shadow with the version in production, and the frames on which they differ."""

from urllib.parse import quote, urlencode

from nicegui import ui

from blemish.v1.model_pb2 import ModelVersion, ShadowComparison, ShadowDisagreement
from blemish_client.names import short
from blemish_console import texts, theme
from blemish_console.data import models
from blemish_console.formats import ABSENT, number, share, when
from blemish_console.shell import View

_REFRESH_S = 3.0
_THUMBNAIL_PX = 256
_FRAMES = 8


class AgreementCard:
    """The comparison of a shadow, which grows while it scores live images."""

    def __init__(self, view: View, version: ModelVersion, production: str) -> None:
        self._view = view
        self._version = version.name
        self._production = production
        self._drawn = ShadowComparison()
        self._most = _FRAMES
        with theme.card():
            self._content = ui.column().classes("w-full").style("gap: 10px")
            self._frames = ui.column().classes("w-full").style("gap: 10px")
            ui.timer(_REFRESH_S, self._refresh, immediate=False)
        self._draw(version.comparison)

    async def _refresh(self) -> None:
        async def read() -> None:
            version = await self._view.session.call(models.read_version, self._version)
            if version.HasField("comparison") and version.comparison != self._drawn:
                self._draw(version.comparison)

        if self._view.session.failure is None:
            await self._view.quietly(read)

    def _draw(self, compared: ShadowComparison) -> None:
        # Frames stay as they are while only the counts change, so that no click is lost.
        is_same = list(compared.disagreements) == list(self._drawn.disagreements)
        self._drawn = compared
        self._content.clear()
        with self._content:
            production = short(compared.production or self._production)
            ui.label(texts.AGREEMENT.format(production=production)).classes("bl-title")
            same = compared.both_normal + compared.both_anomalous
            total = same + compared.only_shadow + compared.only_production
            if not total:
                theme.empty(texts.NOTHING_COMPARED, texts.NOTHING_COMPARED_LEAD, "hourglass_empty")
            else:
                with ui.row().classes("items-baseline"):
                    ui.label(share(same / total)).classes("bl-figure")
                    since = when(compared.begin_time)
                    ui.label(texts.SAME_VERDICT.format(count=f"{total:,}", since=since)).classes("bl-faint")
                theme.facts(
                    [
                        (texts.BOTH_NORMAL, f"{compared.both_normal:,}"),
                        (texts.BOTH_ANOMALOUS, f"{compared.both_anomalous:,}"),
                        (texts.ONLY_SHADOW, f"{compared.only_shadow:,}"),
                        (texts.ONLY_PRODUCTION, f"{compared.only_production:,}"),
                    ]
                )
            if compared.failed:
                ui.label(texts.NOT_COMPARED.format(count=f"{compared.failed:,}")).classes(
                    "bl-problem bl-caution"
                )
            if total and not compared.disagreements:
                ui.label(texts.NO_DIFFERENCES).classes("bl-faint")
        if not is_same:
            self._draw_differences()

    def _draw_differences(self) -> None:
        found = self._drawn.disagreements
        self._frames.clear()
        with self._frames:
            if found:
                ui.label(texts.DIFFERENCES).classes("bl-title")
            with ui.element("div").classes("bl-differences"):
                for each in found[: self._most]:
                    self._draw_difference(each, short(self._drawn.production))
            if len(found) > self._most:
                ui.button(texts.LOAD_MORE, on_click=self._show_more).props("flat dense")

    def _show_more(self) -> None:
        self._most += _FRAMES
        self._draw_differences()

    def _draw_difference(self, found: ShadowDisagreement, production: str) -> None:
        where = f"{found.camera or ABSENT}, {when(found.time)}"
        frame = ui.element("a" if found.item else "div").classes("bl-hit")
        frame.props["title"] = where
        with frame:
            with ui.element("div").classes("bl-hit-picture"):
                if found.item:
                    address = urlencode({"model": production, "item": found.item})
                    frame.props["href"] = f"{self._view.root_path}/search?{address}"
                    picture = ui.element("img")
                    path = f"{self._view.root_path}/images/{quote(production)}/{quote(found.item)}"
                    picture.props["src"] = f"{path}?side={_THUMBNAIL_PX}"
                    picture.props["loading"] = "lazy"
                    picture.props["alt"] = where
            for name, score, threshold in (
                (texts.BY_SHADOW, found.shadow_score, found.shadow_threshold),
                (texts.BY_PRODUCTION, found.production_score, found.production_threshold),
            ):
                with ui.row().classes("w-full items-center justify-between").style("gap: 4px"):
                    ui.label(name).classes("bl-faint").style("font-size: 12.5px")
                    theme.chip(theme.ANOMALOUS if score > threshold else theme.NORMAL)
                text = texts.SCORE_OF.format(score=number(score), threshold=number(threshold))
                ui.label(text).classes("bl-name bl-number")
            for text in (found.camera or ABSENT, when(found.time)):
                ui.label(text).classes("bl-name bl-faint")
