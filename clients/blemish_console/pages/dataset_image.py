# SPDX-License-Identifier: Apache-2.0
"""One image of a dataset: large, with its facts, and its defect mask to draw."""

from collections.abc import Awaitable, Callable
from urllib.parse import quote, urlencode

from nicegui import ui

from blemish.v1.access_pb2 import ROLE_OPERATOR
from blemish_client.names import short
from blemish_console import texts, theme
from blemish_console.data import dataset_image
from blemish_console.drawing.canvas import Canvas, DrawingOptions, draw
from blemish_console.drawing.shapes import Layer, Sketch, Tool
from blemish_console.formats import ABSENT, share, size, when
from blemish_console.shell import View
from blemish_console.theme import Sign

_SIDE_PX = 2048
_GOOD = Sign(texts.DATA_MASK_GOOD, "check_circle", "good")
_DEFECTIVE = Sign(texts.DATA_MASK_DEFECTIVE, "report", "bad")


def address(dataset: str, path: str) -> str:
    """Return the address of the page of an image."""
    return f"/data/image?{urlencode({'dataset': short(dataset), 'path': path})}"


def picture_url(root_path: str, dataset: str, path: str, sha256: bytes) -> str:
    """Return the address of the picture of an image. Its digest gives changed content another address."""
    query = urlencode({"path": path, "side": _SIDE_PX, "v": sha256.hex()[:16]})
    return f"{root_path}/data/images/{quote(short(dataset))}?{query}"


async def build(view: View) -> None:
    """Draw the image that the address names."""
    frame = ui.column().classes("w-full")
    dataset, path = view.query.get("dataset", ""), view.query.get("path", "")
    if not dataset or not path:
        with frame, theme.card():
            theme.empty(texts.DATA_IMAGE_NONE, texts.DATA_IMAGE_NONE_LEAD, "image_search")
        return
    page = _ImageView(view, frame, dataset, path)
    await view.section(frame, page.draw)


class _ImageView:
    """The image on the left, its facts and the actions on its mask on the right."""

    def __init__(self, view: View, frame: ui.element, dataset: str, path: str) -> None:
        self._view = view
        self._frame = frame
        self._dataset = dataset
        self._path = path
        self._canvas: Canvas | None = None

    async def draw(self) -> None:
        """Read the image and draw it.

        Raises:
            BlemishError: if a call fails.
        """
        page = await self._view.session.call(dataset_image.read_page, self._dataset, self._path)
        self._page = page
        self._path = page.image.path
        self._sketch = Sketch(page.width, page.height, page.mask)
        self._may_draw = page.may_have_mask and self._view.session.may(ROLE_OPERATOR)
        self._frame.clear()
        with self._frame:
            self._draw_head()
            with ui.element("div").classes("bl-grid bl-draw-page"):
                with theme.card():
                    options = DrawingOptions(
                        tools=(Tool.BRUSH, Tool.POLYGON, Tool.BOX),
                        layers=(Layer.DEFECT,),
                        asks=True,
                        editable=self._may_draw,
                    )
                    url = picture_url("", page.dataset, page.image.path, page.image.sha256)
                    self._canvas = draw(url, self._sketch, options, self._show_changes)
                with ui.column().classes("w-full").style("gap: 16px"):
                    self._draw_facts()
                    self._draw_mask()

    def _draw_head(self) -> None:
        page = self._page
        with ui.row().classes("w-full items-center").style("gap: 12px"):
            query = urlencode({"dataset": page.dataset, "group": page.folder})
            back = ui.button(
                texts.DATA_IMAGE_BACK.format(dataset=page.dataset),
                icon="arrow_back",
                on_click=lambda: self._go(f"/data?{query}"),
            )
            back.props("flat dense")
            ui.label(page.image.path.rpartition("/")[2]).classes("bl-h1").style("overflow-wrap: anywhere")
            theme.chip(_DEFECTIVE if page.may_have_mask else _GOOD)
            ui.space()
            self._draw_step(texts.DATA_IMAGE_PREVIOUS, "chevron_left", page.previous)
            position = texts.DATA_IMAGE_POSITION.format(position=page.position, total=page.total)
            ui.label(position).classes("bl-number bl-faint")
            self._draw_step(texts.DATA_IMAGE_NEXT, "chevron_right", page.next)

    def _draw_step(self, title: str, icon: str, path: str) -> None:
        button = ui.button(title, icon=icon, on_click=lambda: self._show(path)).props("outline dense")
        button.props("padding='4px 12px'").set_enabled(bool(path))

    def _draw_facts(self) -> None:
        page, image = self._page, self._page.image
        use = page.folder.partition("/")[0]
        rows = [
            (texts.DATA_IMAGE_CLASS, page.class_name),
            (texts.DATA_IMAGE_USE, texts.DATA_IMAGE_USES.get(use, use)),
            (texts.DATA_IMAGE_PATH, image.path),
        ]
        if image.original_path:
            rows.append((texts.DATA_IMAGE_ORIGINAL, image.original_path))
        pixels = texts.DATA_IMAGE_PIXELS.format(
            width=page.width, height=page.height, size=size(image.size_bytes)
        )
        rows.append((texts.DATA_IMAGE_SIZE, pixels))
        if image.HasField("provenance"):
            origin = image.provenance
            parts = [short(origin.item)[:8], origin.camera, when(origin.time), origin.author]
            rows.append((texts.DATA_IMAGE_ORIGIN, ", ".join(filter(None, parts))))
        with theme.card(page.dataset):
            theme.facts(rows)

    def _draw_mask(self) -> None:
        page = self._page
        with theme.card(texts.DATA_MASK):
            if not page.may_have_mask:
                ui.label(texts.DATA_MASK_NOT_FOR_GOOD).classes("bl-faint")
                return
            with ui.row().classes("w-full items-center"):
                covered = ABSENT if page.mask is None else share(float(page.mask.mean()))
                state = texts.DATA_MASK_SHARE.format(share=covered)
                ui.label(texts.DATA_MASK_NONE if page.mask is None else state)
                ui.space()
                self._changed = ui.row()
                with self._changed:
                    theme.chip(Sign(texts.DATA_MASK_CHANGED, "edit", "warn"))
            self._changed.set_visibility(False)
            if page.unread:
                with ui.element("div").classes("bl-problem bl-caution"):
                    ui.icon("warning", size="20px")
                    ui.label(texts.DATA_MASK_UNREAD.format(paths=", ".join(page.unread)))
            if not self._may_draw:
                ui.label(texts.DATA_MASK_READER).classes("bl-faint")
                return
            ui.label(texts.DATA_MASK_LEAD).classes("bl-faint")
            self._save = ui.button(texts.DATA_MASK_SAVE, icon="save", on_click=self._save_and_redraw)
            self._save.props("unelevated").classes("w-full").set_enabled(False)
            self._discard = ui.button(texts.DATA_MASK_DISCARD, icon="undo", on_click=self._redraw)
            self._discard.props("outline").classes("w-full").set_enabled(False)
            if page.masks:
                remove = ui.button(texts.DATA_MASK_REMOVE, icon="delete", on_click=self._ask_to_remove)
                remove.props("flat color=negative").classes("w-full")

    def _show_changes(self) -> None:
        is_changed = self._sketch.is_changed
        self._changed.set_visibility(is_changed)
        self._save.set_enabled(is_changed)
        self._discard.set_enabled(is_changed)

    async def _redraw(self) -> None:
        await self._view.section(self._frame, self.draw)

    async def _save_and_redraw(self) -> None:
        if await self._save_mask():
            await self._redraw()

    async def _save_mask(self) -> bool:
        """Save what was drawn; return False if that failed, and keep the drawing."""

        async def save() -> None:
            pixels = self._sketch.pixels(Layer.DEFECT)
            await self._view.session.call(dataset_image.save_mask, self._page, pixels)
            ui.notify(
                texts.DATA_MASK_SAVED if pixels.any() else texts.DATA_MASK_REMOVED,
                type="positive",
                position="top",
            )

        self._save.set_enabled(False)
        if not await self._view.attempt(save):
            self._show_changes()
            return False
        return True

    async def _ask_to_remove(self) -> None:
        answer = await _ask(
            texts.DATA_MASK_ASK_REMOVE,
            texts.DATA_MASK_REMOVE_EFFECT,
            {texts.CANCEL: "flat", texts.DATA_MASK_REMOVE: "unelevated color=negative"},
        )

        async def remove() -> None:
            await self._view.session.call(dataset_image.remove_mask, self._page)
            ui.notify(texts.DATA_MASK_REMOVED, type="positive", position="top")

        if answer == texts.DATA_MASK_REMOVE and await self._view.attempt(remove):
            await self._redraw()

    async def _show(self, path: str) -> None:
        await self._unless_changed(lambda: self._open(path))

    async def _open(self, path: str) -> None:
        self._path = path
        ui.navigate.history.replace(f"{self._view.root_path}{address(self._page.dataset, path)}")
        await self._redraw()

    async def _go(self, target: str) -> None:
        async def leave() -> None:
            ui.navigate.to(target)

        await self._unless_changed(leave)

    async def _unless_changed(self, leave: Callable[[], Awaitable[None]]) -> None:
        """Leave the image, once its changes are saved or discarded."""
        if self._sketch.is_changed:
            answer = await _ask(
                texts.DATA_MASK_ASK,
                texts.DATA_MASK_ASK_LEAD,
                {
                    texts.DATA_MASK_STAY: "flat",
                    texts.DATA_MASK_LEAVE: "outline color=negative",
                    texts.DATA_MASK_SAVE: "unelevated",
                },
            )
            if answer == texts.DATA_MASK_SAVE:
                if not await self._save_mask():
                    return
            elif answer != texts.DATA_MASK_LEAVE:
                return
            if self._canvas is not None and not self._canvas.is_deleted:
                self._canvas.settle()
        await leave()


async def _ask(question: str, lead: str, answers: dict[str, str]) -> str:
    """Ask a question; return the chosen answer, empty if the question was closed.

    Args:
        question: the question.
        lead: sentence below it.
        answers: appearance of the buttons by their words.
    """
    with ui.dialog() as dialog, ui.card().classes("bl-card").style("max-width: 520px"):
        ui.label(question).classes("bl-h1")
        ui.label(lead).classes("bl-faint")
        with ui.row().classes("w-full justify-end"):
            for answer, look in answers.items():
                ui.button(answer, on_click=lambda answer=answer: dialog.submit(answer)).props(look)
    chosen = await dialog
    dialog.delete()
    return str(chosen or "")
