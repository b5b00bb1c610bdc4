# SPDX-License-Identifier: Apache-2.0
"""The region to inspect and the regions to ignore, drawn on a training image for the form of a training."""

import asyncio

from nicegui import ui

from blemish_client.transport.work_requests import TrainOptions
from blemish_console import texts, theme
from blemish_console.data import training_regions
from blemish_console.data.training_regions import Reference
from blemish_console.drawing.canvas import DrawingOptions, draw
from blemish_console.drawing.shapes import Layer, Sketch, Tool
from blemish_console.formats import share
from blemish_console.pages.dataset_image import picture_url
from blemish_console.shell import View


class RegionDrawing:
    """A part of the form, filled once it is opened and a dataset is chosen."""

    def __init__(self, view: View, dataset: str) -> None:
        """Draw the closed part in the current place of the page."""
        self._view = view
        self._dataset = dataset
        self._drawn_for = ""
        self._sketch: Sketch | None = None
        self._reference = ""
        self._references: dict[str, Reference] = {}
        with ui.expansion(texts.REGION_TITLE, icon="select_all").classes("w-full") as self._group:
            ui.label(texts.REGION_LEAD).classes("bl-faint")
            self._problem = ui.element("div").classes("bl-problem").props('role="alert"')
            with self._problem:
                ui.icon("error", size="20px")
                self._problem_text = ui.label()
            self._problem.set_visibility(False)
            self._body = ui.column().classes("w-full").style("gap: 10px; padding-top: 8px")
        self._group.on_value_change(self._fill)

    async def choose(self, dataset: str) -> None:
        """Draw on another dataset, without what was drawn on the one before."""
        if dataset != self._dataset:
            self._dataset, self._sketch = dataset, None
            await self._fill()

    async def options(self) -> TrainOptions:
        """Return what was drawn as options of a training."""
        if self._sketch is None:
            return {}
        return await asyncio.to_thread(
            training_regions.mask_options, self._sketch, self._reference, moves=bool(self._moves.value)
        )

    def show_error(self, message: str) -> None:
        """Open the part and show an error about the region; empty removes it."""
        self._problem.set_visibility(bool(message))
        if message:
            self._problem_text.set_text(message)
            self._group.open()

    async def _fill(self) -> None:
        if not self._group.value or self._drawn_for == self._dataset:
            return
        self._drawn_for = self._dataset
        await self._view.section(self._body, self._draw)

    async def _draw(self) -> None:
        self._body.clear()
        if not self._dataset:
            with self._body:
                theme.empty(texts.DATASET_MISSING, icon="photo_library")
            return
        found = await self._view.session.call(training_regions.read_references, self._dataset)
        self._references = {each.path: each for each in found}
        with self._body:
            if not found:
                theme.empty(texts.REGION_NO_IMAGE, texts.REGION_NO_IMAGE_LEAD, "photo_library")
                return
            with ui.row().classes("w-full items-center").style("gap: 14px"):
                ui.select(
                    {each.path: each.shown for each in found},
                    value=found[0].path,
                    label=texts.REGION_REFERENCE,
                    on_change=lambda change: self._draw_on(change.value),
                ).props("dense outlined options-dense").classes("col").style("min-width: 220px")
                self._share = ui.label().classes("bl-number")
            self._paper = ui.column().classes("w-full bl-draw-small").style("gap: 8px")
            self._moves = ui.switch(texts.REGION_MOVES)
            ui.label(texts.REGION_MOVES_LEAD).classes("bl-faint")
        await self._draw_on(found[0].path)

    async def _draw_on(self, path: str) -> None:
        """Show another image under the drawing, which stays if the image has the same size."""
        width, height = await self._view.session.call(training_regions.read_size, self._dataset, path)
        self._reference = path
        if self._sketch is None or (self._sketch.width, self._sketch.height) != (width, height):
            self._sketch = Sketch(width, height)
        options = DrawingOptions(
            tools=(Tool.BOX, Tool.POLYGON, Tool.BRUSH), layers=(Layer.IGNORE, Layer.INSPECT)
        )
        self._paper.clear()
        with self._paper:
            url = picture_url("", self._dataset, path, self._references[path].sha256)
            draw(url, self._sketch, options, self._show_share)
        await self._show_share()

    async def _show_share(self) -> None:
        self.show_error("")
        if self._sketch is not None:
            ignored = await asyncio.to_thread(training_regions.ignored_share, self._sketch)
            self._share.set_text(
                texts.REGION_SHARE.format(share=share(ignored)) if ignored else texts.REGION_ALL
            )
