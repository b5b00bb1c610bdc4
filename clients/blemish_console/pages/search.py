# SPDX-License-Identifier: Apache-2.0
"""Search: past images like an uploaded one, like an item, or like a part of either."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode

from nicegui import ui
from nicegui.events import UploadEventArguments

from blemish.v1.search_pb2 import Hit
from blemish_client.cli.times import with_local_zone
from blemish_client.errors import BlemishError, InvalidArgument, Unauthenticated
from blemish_client.names import short
from blemish_client.search import similarity
from blemish_console import texts, theme
from blemish_console.data import models, search
from blemish_console.data.search import Found, ImageQuery, IndexContents, QueryPicture, UnusableImage
from blemish_console.drawing.canvas import DrawingOptions, draw
from blemish_console.drawing.shapes import Layer, Sketch
from blemish_console.formats import item_title, number, when
from blemish_console.pages.indexing import draw_indexing
from blemish_console.shell import View, describe, leave

_HIT_PX = 256
_LIMITS = (12, 24, 48, 96)
_ACCEPTED = "image/*,.tif,.tiff,.bmp,.pgm,.ppm,.jp2"


async def build(view: View) -> None:
    """Draw the search of the model, item and filter that the address names."""
    frame = ui.column().classes("w-full")
    await view.section(frame, lambda: _draw(view, frame))


async def _draw(view: View, frame: ui.element) -> None:
    names = [short(model.name) for model in await view.session.call(models.read_models)]
    model = view.query.get("model", "") or (names[0] if names else "")
    index = await view.session.call(search.read_index, model) if model else IndexContents(0)
    datasets: list[str] = []
    if names and not index.size:
        datasets = await view.session.call(search.datasets_to_index, model)
    frame.clear()
    with frame:
        if not names:
            with theme.card():
                theme.empty(texts.SEARCH_NO_MODEL, texts.NO_MODELS_LEAD, "category")
            return
        page = _SearchPage(view, model, index, datasets)
        page.draw(names)
    if item := view.query.get("item"):
        await page.choose_item(item)


class _SearchPage:
    """The query and the filter on the left, the hits on the right."""

    def __init__(self, view: View, model: str, index: IndexContents, datasets: list[str]) -> None:
        self._view = view
        self._datasets = datasets
        self._model = model
        self._index = index
        self._where = view.query.get("where", "")
        self._limit = 24
        self._content = b""
        self._item = ""
        self._sketch: Sketch | None = None
        self._searches = 0
        self._is_syncing = False
        self._selects: dict[str, ui.select] = {}

    def draw(self, names: list[str]) -> None:
        with ui.element("div").classes("bl-grid bl-search"):
            with ui.column().classes("w-full").style("gap: 16px; min-width: 0"):
                with theme.card(texts.SEARCH_QUERY):
                    self._draw_model(names)
                    self._query = ui.column().classes("w-full bl-search-query")
                    with self._query:
                        theme.empty(texts.SEARCH_NO_QUERY, texts.SEARCH_NO_QUERY_LEAD, "image_search")
                    self._upload = (
                        ui.upload(
                            label=texts.SEARCH_DROP,
                            auto_upload=True,
                            max_file_size=self._max_bytes(),
                            on_upload=self._take_upload,
                            on_rejected=lambda: self._refuse_upload(texts.SEARCH_TOO_LARGE),
                        )
                        .props(f'flat accept="{_ACCEPTED}"')
                        .classes("w-full bl-drop")
                    )
                    self._problem = ui.label().classes("bl-problem").props('role="alert"')
                    self._problem.set_visibility(False)
                with theme.card(texts.SEARCH_FILTER):
                    self._draw_filter()
            with theme.card(texts.SEARCH_HITS):
                self._progress = ui.linear_progress(show_value=False).props("indeterminate size=3px")
                self._state = ui.label().classes("bl-faint").style("min-height: 22px")
                self._hits = ui.element("div").classes("bl-hits").props('aria-live="polite"')
        self._progress.classes("bl-waiting")
        self._set_searching(False)
        self._draw_start()

    def _draw_model(self, names: list[str]) -> None:
        choices = names if self._model in names else [self._model, *names]
        with ui.row().classes("w-full items-center no-wrap"):
            ui.select(
                choices,
                value=self._model,
                label=texts.SEARCH_MODEL,
                on_change=lambda change: ui.navigate.to(self._address(change.value, self._item)),
            ).props("dense outlined options-dense").classes("col")
            ui.label(texts.SEARCH_SIZE.format(count=f"{self._index.size:,}")).classes("bl-faint")

    def _draw_start(self) -> None:
        with self._hits:
            if self._index.size:
                theme.empty(texts.SEARCH_START, texts.SEARCH_START_LEAD, "image_search")
            else:
                theme.empty(texts.SEARCH_NO_INDEX, texts.SEARCH_NO_INDEX_LEAD, "inventory_2")
                with ui.column().classes("w-full items-center"):
                    draw_indexing(self._view, self._model, self._datasets)

    def _max_bytes(self) -> int:
        limit = self._view.session.info.limits.max_image_bytes
        return min(limit or search.MAX_UPLOAD_BYTES, search.MAX_UPLOAD_BYTES)

    def _address(self, model: str, item: str) -> str:
        parts = {"model": model, "item": item, "where": self._where}
        return f"/search?{urlencode({name: value for name, value in parts.items() if value})}"

    # Filter

    def _draw_filter(self) -> None:
        with ui.element("div").classes("bl-pickers"):
            self._picker("class", texts.SEARCH_CLASS, {name: name for name in self._index.classes})
            self._picker("camera", texts.SEARCH_CAMERA, {name: name for name in self._index.cameras})
            self._picker("verdict", texts.SEARCH_VERDICT, texts.SEARCH_VERDICTS)
            self._picker("label", texts.SEARCH_LABEL, texts.SEARCH_LABELS)
            ui.select(
                texts.SEARCH_PERIODS,
                value=0,
                label=texts.SEARCH_TIME,
                on_change=lambda change: self._pick_period(change.value),
            ).props("dense outlined options-dense")
            ui.select(
                list(_LIMITS),
                value=self._limit,
                label=texts.SEARCH_LIMIT,
                on_change=lambda change: self._set_limit(change.value),
            ).props("dense outlined options-dense")
        self._text = (
            ui.textarea(texts.SEARCH_WHERE, value=self._where)
            .props("dense outlined autogrow spellcheck=false")
            .classes("w-full bl-mono")
        )
        self._text.on("keydown.enter.prevent", self._apply_text)
        self._text.on("blur", self._apply_text)
        ui.label(texts.SEARCH_WHERE_HINT).classes("bl-faint").style("font-size: 12.5px")
        self._fault = ui.label().classes("bl-fault").props('role="alert"')
        self._fault.set_visibility(False)
        self._sync_pickers()

    def _picker(self, name: str, title: str, choices: dict[str, str]) -> None:
        self._selects[name] = ui.select(
            {"": texts.SEARCH_ANY} | choices,
            value="",
            label=title,
            on_change=lambda change: self._pick(name, change.value),
        ).props("dense outlined options-dense")

    async def _pick(self, name: str, value: str) -> None:
        if not self._is_syncing:
            condition = f"{name} = {search.quoted(value)}" if value else ""
            await self._set_where(search.with_condition(self._text.value or "", name, condition))

    async def _pick_period(self, hours: int) -> None:
        since = (datetime.now(UTC) - timedelta(hours=hours)).astimezone().isoformat(timespec="seconds")
        condition = f"time >= {search.quoted(since)}" if hours else ""
        await self._set_where(search.with_condition(self._text.value or "", "time", condition))

    async def _apply_text(self) -> None:
        await self._set_where((self._text.value or "").strip())

    async def _set_where(self, where: str) -> None:
        if where == self._where:
            return
        self._where = where
        self._text.set_value(where)
        self._sync_pickers()
        await self._search()

    def _sync_pickers(self) -> None:
        """Set the pickers to the values that the text of the filter requires."""
        self._is_syncing = True
        for name, select in self._selects.items():
            value = search.chosen_value(self._where, name)
            select.set_value(value if value in (select.options or {}) else "")
        self._is_syncing = False

    async def _set_limit(self, limit: int) -> None:
        self._limit = limit
        await self._search()

    # ImageQuery

    async def _take_upload(self, event: UploadEventArguments) -> None:
        self._upload.reset()
        limits = self._view.session.info.limits
        content = await event.file.read()
        try:
            picture = await asyncio.to_thread(
                search.read_upload, content, limits.max_image_bytes, limits.max_image_pixels
            )
        except UnusableImage as error:
            self._refuse_upload(str(error))
            return
        self._content, self._item = content, ""
        ui.navigate.history.replace(f"{self._view.root_path}{self._address(self._model, '')}")
        self._draw_query(picture, event.file.name)
        await self._search()

    def _refuse_upload(self, reason: str) -> None:
        self._upload.reset()
        self._problem.set_text(reason)
        self._problem.set_visibility(True)

    async def choose_item(self, item: str) -> None:
        """Search for the neighbours of an item."""

        async def draw() -> None:
            found, picture = await self._view.session.call(search.read_item, item, self._model)
            self._content, self._item = b"", found.item
            self._draw_query(picture, item_title(found))
            with self._facts:
                _draw_signs(found)
            await self._search()

        await self._view.section(self._query, draw)

    def _draw_query(self, picture: QueryPicture, title: str) -> None:
        self._problem.set_visibility(False)
        self._query.clear()
        with self._query:
            sketch = self._sketch = Sketch(picture.width, picture.height)
            canvas = draw(
                picture.url, sketch, DrawingOptions(layers=(Layer.PART,), single=True), self._show_part
            )
            # At most 62 % of the window's height, in the image's own proportions.
            canvas.style(
                f"height: auto; max-height: 62vh; aspect-ratio: {picture.width} / {picture.height}"
            )
            self._facts = ui.row().classes("w-full items-center").style("gap: 8px; min-height: 30px")
            ui.label(title).classes("bl-faint bl-name")
            with ui.row().classes("w-full items-center no-wrap").style("min-height: 40px"):
                ui.label(texts.SEARCH_BOX_HINT).classes("bl-faint col").style("font-size: 12.5px")
                self._whole = ui.button(texts.SEARCH_WHOLE, icon="fullscreen", on_click=canvas.clear_all)
                self._whole.props("flat dense no-wrap")
                self._whole.style("visibility: hidden")

    async def _show_part(self) -> None:
        """Search for the part that is drawn now."""
        has_part = self._sketch is not None and bool(self._sketch.shapes)
        self._whole.style(f"visibility: {'visible' if has_part else 'hidden'}")
        await self._search()

    # Hits

    async def _search(self) -> None:
        """Draw the hits as they come. A later search replaces this one."""
        if not (self._content or self._item):
            return
        self._searches += 1
        mine = self._searches
        where = with_local_zone(self._where)
        query = ImageQuery(self._model, self._content, self._item, where=where, limit=self._limit)
        if self._sketch is not None:
            query = await asyncio.to_thread(search.part_of, query, self._sketch)
        self._hits.clear()
        self._fault.set_visibility(False)
        self._state.set_text(texts.SEARCH_RUNNING)
        self._set_searching(True)
        try:
            found = await self._follow(query, mine)
        except BlemishError as error:
            if mine == self._searches:
                self._show_error(error)
            return
        finally:
            if mine == self._searches:
                self._set_searching(False)
        if mine == self._searches and not self._hits.is_deleted:
            self._show_end(found)

    async def _follow(self, query: ImageQuery, mine: int) -> Found:
        """Draw the hits of a search until it ends or another one has begun."""
        loop = asyncio.get_running_loop()
        hits: asyncio.Queue[Hit | None] = asyncio.Queue()

        def is_over() -> bool:
            return mine != self._searches or self._hits.is_deleted

        def on_hit(hit: Hit) -> None:
            with suppress(RuntimeError):  # the console is stopping
                loop.call_soon_threadsafe(hits.put_nowait, hit)

        call = asyncio.ensure_future(self._view.session.call(search.read_hits, query, on_hit, is_over))
        call.add_done_callback(lambda _: hits.put_nowait(None))
        while (hit := await hits.get()) is not None:
            if not is_over():
                with self._hits:
                    self._draw_hit(hit)
        return await call

    def _draw_hit(self, hit: Hit) -> None:
        with ui.link(target=self._address(self._model, hit.item)).classes("bl-hit"):
            with ui.element("div").classes("bl-hit-picture"):
                picture = ui.element("img")
                item = hit.item.removeprefix("items/")
                model = quote(self._model)
                picture.props["src"] = (
                    f"{self._view.root_path}/images/{model}/items/{quote(item)}?side={_HIT_PX}"
                )
                picture.props["alt"] = ""
                picture.props["loading"] = "lazy"
                if hit.regions and not hit.HasField("match"):
                    regions = ui.element("img").classes("bl-hit-regions")
                    regions.props["src"] = (
                        f"{self._view.root_path}/images/{model}/items/{quote(item)}/regions.svg"
                    )
                    regions.props["alt"] = ""
                    regions.props["loading"] = "lazy"
                if hit.HasField("match"):
                    ui.html(_match_svg(hit), sanitize=False).classes("bl-hit-match")
            with ui.row().classes("w-full items-center no-wrap justify-between"):
                ui.label(number(similarity(hit))).classes("bl-hit-similarity")
                theme.chip(theme.verdict_sign(hit.verdict))
            with ui.row().style("min-height: 26px"):
                theme.label_chip(hit)
            ui.label(item_title(hit)).classes("bl-name")
            ui.label(" · ".join(filter(None, [hit.camera, when(hit.time)]))).classes("bl-faint bl-name")
            with ui.row().classes("items-center bl-link").style("gap: 4px; font-weight: 600"):
                ui.icon("hub", size="16px")
                ui.label(texts.SEARCH_NEIGHBOURS)

    def _show_end(self, found: Found) -> None:
        if found.inspection is not None:
            self._facts.clear()
            with self._facts:
                theme.chip(theme.verdict_sign(found.inspection.verdict))
                ui.label(texts.SEARCH_SCORE.format(score=number(found.inspection.score)))
        parts = [texts.SEARCH_COUNT.format(count=found.count)]
        if found.unseen:
            parts.append(texts.SEARCH_UNSEEN.format(count=found.unseen))
        self._state.set_text(". ".join(parts) if found.count else "")
        if not found.count:
            with self._hits:
                if self._index.size:
                    theme.empty(texts.SEARCH_NO_HIT, texts.SEARCH_NO_HIT_LEAD, "search_off")
                else:
                    self._draw_start()

    def _show_error(self, error: BlemishError) -> None:
        self._state.set_text("")
        if isinstance(error, Unauthenticated):
            leave()
            return
        if isinstance(error, InvalidArgument) and error.field == "where":
            self._fault.set_text(error.message)
            self._fault.set_visibility(True)
            with self._hits:
                theme.empty(texts.SEARCH_FAULT, texts.SEARCH_FAULT_LEAD, "filter_alt_off")
            return
        with self._hits, ui.column().classes("w-full items-center"):
            theme.empty(texts.SEARCH_FAILED, describe(error), "cloud_off")
            ui.button(texts.TRY_AGAIN, on_click=self._search).props("flat")

    def _set_searching(self, is_searching: bool) -> None:
        self._progress.style(f"visibility: {'visible' if is_searching else 'hidden'}")


def _draw_signs(hit: Hit) -> None:
    theme.chip(theme.verdict_sign(hit.verdict))
    theme.label_chip(hit)
    ui.label(texts.SEARCH_SCORE.format(score=number(hit.score)))


def _match_svg(hit: Hit) -> str:
    """Return the place of a match as SVG, which has numbers only."""
    match, box = hit.match, hit.match.box
    return (
        f'<svg viewBox="0 0 {match.width} {match.height}">'
        f'<rect class="bl-box" x="{box.left}" y="{box.top}" width="{box.width}" height="{box.height}"/>'
        "</svg>"
    )
