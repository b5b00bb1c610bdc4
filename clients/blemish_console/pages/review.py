# SPDX-License-Identifier: Apache-2.0
"""Review: kept frames one after the other, labelled by keys, and the summary of the shift to print."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import quote, urlencode

from nicegui import ui
from nicegui.events import KeyEventArguments

from blemish.v1.access_pb2 import ROLE_OPERATOR
from blemish.v1.search_pb2 import (
    LABEL_CONFIRMED,
    LABEL_FALSE_ALARM,
    LABEL_GOOD,
    LABEL_NONE,
    Hit,
    Label,
)
from blemish_client.client import Client
from blemish_client.errors import Aborted, BlemishError, NotFound, Unauthenticated
from blemish_client.names import short
from blemish_console import texts, theme
from blemish_console.data import models, review
from blemish_console.data.review import PAGE_SIZE, Order, QueuePage, ReviewQuery, Shown
from blemish_console.formats import ABSENT, item_title, number, when
from blemish_console.pages.frame_strip import FrameStrip, StripFrame
from blemish_console.pages.learning import LearningPanel
from blemish_console.shell import View, describe
from blemish_console.theme import Sign

UNTIL_PAUSE_MS = 700
"""Time after the last key after which a typed time counts."""
_SIDE_PX, _THUMBNAIL_PX = 1280, 160


async def build(view: View) -> None:
    """Draw the queue of the model, period and camera that the address names."""
    frame = ui.column().classes("w-full").style("gap: 16px")
    page = _ReviewPage(view)

    async def draw() -> None:
        with frame:
            await page.draw()

    await view.section(frame, draw)


async def build_summary(view: View) -> None:
    """Draw the numbers of a shift, as a page to print."""
    query = _query(view, view.query.get("model", ""))
    frame = ui.column().classes("w-full").style("gap: 16px")

    async def draw() -> None:
        summary = await view.session.call(review.read_summary, query)
        with frame:
            _draw_summary(view, query, summary)

    await view.section(frame, draw)


def _query(view: View, model: str) -> ReviewQuery:
    """Return what the address asks for; parts that are not valid have their defaults."""
    hours = view.query.get("hours", "")
    period = int(hours) if hours.isdecimal() and int(hours) in texts.PERIODS else next(iter(texts.PERIODS))
    shown, order = view.query.get("show", ""), view.query.get("order", "")
    return ReviewQuery(
        model,
        datetime.now().astimezone() - timedelta(hours=period) if period else None,
        view.query.get("camera", ""),
        Shown(shown) if shown in texts.SHOWN else Shown.TO_REVIEW,
        Order(order) if order in texts.ORDERS else Order.NEWEST,
        _parse_time(view.query.get("until", "")),
    )


def _parse_time(text: str) -> datetime | None:
    """Return a time of this machine's zone, or None if it is not one."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        return None


@dataclass
class _Step:
    """A label that was given, to undo it."""

    at: int
    before: Hit


class _ReviewPage:
    """The queue with the frame in work."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._query = _query(view, view.query.get("model", ""))
        self._items: list[Hit] = []
        self._total = 0
        self._next_page_token = ""
        self._threshold: float | None = None
        self._at = 0
        self._unsure: set[str] = set()
        self._selected: set[str] = set()
        self._steps: list[_Step] = []
        self._shows_regions = True
        self._is_zoomed = False
        self._is_busy = False
        self._first = 0
        """Position of the first frame of the strip."""

    async def draw(self) -> None:
        names = [short(model.name) for model in await self._view.session.call(models.read_models)]
        if not names:
            with theme.card():
                theme.empty(texts.NO_MODEL_TO_REVIEW, texts.NO_MODELS_LEAD, "category")
            return
        if not self._query.model:
            self._query = _query(self._view, names[0])
        page = await self._view.session.call(review.read_queue, self._query)
        self._take(page)
        self._draw_filters(names)
        self._learning = LearningPanel(self._view, self._query.model)
        await self._learning.draw()
        if not self._items:
            with theme.card():
                theme.empty(texts.NOTHING_TO_REVIEW, texts.NOTHING_TO_REVIEW_LEAD, "task_alt")
            return
        with ui.element("div").classes("bl-review"):
            with theme.card().classes("bl-picture-card"):
                self._picture = ui.element("div").classes("bl-picture")
                with ui.row().classes("items-center w-full"):
                    self._regions_switch = ui.switch(
                        texts.REGIONS, value=True, on_change=lambda change: self._show_regions(change.value)
                    )
                    ui.button(texts.ZOOM, icon="zoom_in", on_click=self._zoom).props("flat dense")
                    ui.space()
                    ui.label(texts.KEYS).classes("bl-faint bl-hide-narrow").style("font-size: 12.5px")
            with ui.column().style("gap: 16px; min-width: 0"):
                with theme.card():
                    self._facts = ui.column().classes("w-full").style("min-height: 152px; gap: 10px")
                    self._draw_actions()
                with theme.card(texts.NEIGHBOURS):
                    self._neighbours = ui.element("div").classes("bl-neighbours")
        with theme.card(texts.QUEUE):
            self._bulk = ui.row().classes("items-center w-full").style("min-height: 36px")
            self._strip = FrameStrip(self._open, self._select)
            with ui.row().classes("items-center w-full"):
                self._earlier = ui.button(texts.PAGE_BEFORE, icon="chevron_left").props("flat dense")
                self._earlier.on_click(self._once(lambda: self._turn(-1)))
                self._range = ui.label()
                self._later = ui.button(texts.PAGE_AFTER, icon="chevron_right").props("flat dense")
                self._later.on_click(self._once(lambda: self._turn(1)))
        self._draw_bulk()
        ui.keyboard(self._on_key, repeating=False, ignore=["input", "select", "textarea"])
        ui.timer(0, self._read_classes, once=True)
        await self._show(0)

    def _take(self, page: QueuePage) -> None:
        """Take over the first page of a queue."""
        self._items, self._total = page.items, page.total
        self._next_page_token, self._threshold = page.next_page_token, page.threshold
        self._at = 0
        self._steps.clear()
        self._selected.clear()

    # Filters

    def _draw_filters(self, names: list[str]) -> None:
        hours = int(self._view.query.get("hours", next(iter(texts.PERIODS))) or 0)
        known = {camera.camera for camera in self._view.session.info.cameras}
        cameras = sorted(
            known | {item.camera for item in self._items if item.camera} | {self._query.camera}
        )
        with ui.row().classes("w-full items-center").style("gap: 12px"):
            self._choice(texts.MODEL, dict(zip(names, names, strict=True)), self._query.model, "model")
            self._choice(texts.PERIOD, texts.PERIODS, hours, "hours")
            choices = {"": texts.ALL_CAMERAS} | {camera: camera for camera in cameras if camera}
            self._choice(texts.CAMERA, choices, self._query.camera, "camera")
            self._choice(texts.SHOW, texts.SHOWN, str(self._query.shown), "show")
            self._choice(texts.ORDER, texts.ORDERS, str(self._query.order), "order")
            ui.input(
                texts.UNTIL,
                value=self._view.query.get("until", ""),
                on_change=lambda change: self._jump(change.value or ""),
            ).props(f"type=datetime-local dense outlined stack-label debounce={UNTIL_PAUSE_MS}")
            ui.space()
            if self._view.session.may(ROLE_OPERATOR):
                ui.button(texts.LEARN, icon="school", on_click=self._learn).props("flat")
            ui.button(texts.SUMMARY, icon="summarize", on_click=self._open_summary).props("flat")

    def _choice(self, name: str, choices: dict[str, str] | dict[int, str], value: object, key: str) -> None:
        if value not in choices:
            value = next(iter(choices))
        ui.select(
            choices,
            value=value,
            label=name,
            on_change=lambda change: self._go("/review", **{key: change.value}),
        ).props("dense outlined options-dense").style("min-width: 150px")

    def _go(self, path: str, **changed: object) -> None:
        query = {"model": self._query.model, **self._view.query, **changed}
        ui.navigate.to(f"{path}?{urlencode({key: str(value) for key, value in query.items()})}")

    async def _jump(self, until: str) -> None:
        """Show the queue up to a time, with the frames before it."""
        query = replace(self._query, until=_parse_time(until))
        if not self._items:
            self._go("/review", until=until)
            return

        async def read() -> None:
            page = await self._view.session.call(review.read_queue, query)
            if not page.items:
                ui.notify(texts.NOTHING_UNTIL, type="warning", position="top")
                return
            self._query, self._view.query["until"] = query, until
            self._take(page)
            self._draw_bulk()
            await self._show(0)

        await self._view.attempt(read)

    async def _learn(self) -> None:
        await self._learning.ask()

    def _open_summary(self) -> None:
        self._go("/review/summary")

    # The frame in work

    def _item(self) -> Hit:
        return self._items[self._at]

    async def _show(self, at: int) -> None:
        """Show the frame at a position of the queue."""
        self._at = max(0, min(at, len(self._items) - 1))
        item = self._item()
        self._draw_strip(self._at - self._at % PAGE_SIZE)
        self._strip.show_here(item.item)
        self._draw_facts()
        width, height = 0, 0
        try:
            width, height = await self._view.session.call(review.read_size, item.item, self._query.model)
        except NotFound:  # the image was removed from the disk
            pass
        except BlemishError as error:
            self._view.show(error)
        if self._item().item != item.item:
            return
        self._draw_picture(item, width, height)
        ui.timer(
            0, lambda: self._view.section(self._neighbours, lambda: self._draw_neighbours(item)), once=True
        )

    def _draw_picture(self, item: Hit, width: int, height: int) -> None:
        self._picture.clear()
        self._picture.classes(replace=f"bl-picture {'bl-zoomed' if self._is_zoomed else ''}")
        with self._picture, ui.element("div").classes("bl-layers"):
            picture = ui.element("img").classes("bl-image")
            picture.props["src"] = self._image_path(item, _SIDE_PX)
            picture.props["alt"] = f"{item.camera} {when(item.time)}"
            if width and height:
                picture.props["width"], picture.props["height"] = width, height
                self._overlay = ui.html(_outlines(item, width, height)).classes("bl-overlay")
                self._overlay.set_visibility(self._shows_regions)

    def _image_path(self, item: Hit, side: int) -> str:
        model = quote(self._query.model)
        return f"{self._view.root_path}/images/{model}/{quote(item.item)}?side={side}"

    def _draw_facts(self) -> None:
        item = self._item()
        self._facts.clear()
        with self._facts:
            with ui.row().classes("items-center w-full"):
                position = texts.POSITION.format(position=self._at + 1, total=self._total)
                ui.label(position).classes("bl-h1")
                theme.chip(theme.verdict_sign(item.verdict))
                theme.chip(_label_sign(item, is_unsure=item.item in self._unsure))
            threshold = "" if self._threshold is None else f" ({texts.THRESHOLD} {number(self._threshold)})"
            theme.facts(
                [
                    (texts.SCORE, number(item.score) + threshold),
                    (texts.FROM_CAMERA, item.camera or ABSENT),
                    (texts.TIME, when(item.time)),
                ]
            )

    async def _draw_neighbours(self, item: Hit) -> None:
        found = await self._view.session.call(review.read_neighbours, item.item, self._query.model)
        if self._item().item != item.item:
            return
        self._neighbours.clear()
        with self._neighbours:
            if not found:
                theme.empty(texts.NO_NEIGHBOURS, icon="image_search")
            for hit in found:
                self._draw_neighbour(hit)

    def _draw_neighbour(self, hit: Hit) -> None:
        """Draw a similar image with its label, camera and time; a click shows its own neighbours."""
        target = f"/search?{urlencode({'model': self._query.model, 'item': hit.item})}"
        with ui.link(target=target).classes("bl-neighbour").tooltip(texts.SEARCH_NEIGHBOURS):
            self._draw_thumbnail(hit)
            theme.label_chip(hit)
            ui.label(hit.camera or item_title(hit)).classes("bl-name")
            ui.label(when(hit.time)).classes("bl-faint")

    def _draw_thumbnail(self, item: Hit) -> None:
        picture = ui.element("img").classes("bl-thumb-image")
        picture.props["src"] = self._image_path(item, _THUMBNAIL_PX)
        picture.props["loading"] = "lazy"
        picture.props["alt"] = f"{item.camera or item_title(item)} {when(item.time)}"

    def _show_regions(self, shows: bool) -> None:
        self._shows_regions = shows
        if hasattr(self, "_overlay"):
            self._overlay.set_visibility(shows)

    def _zoom(self) -> None:
        self._is_zoomed = not self._is_zoomed
        self._picture.classes(toggle="bl-zoomed")

    # Labels

    def _draw_actions(self) -> None:
        self._class = (
            ui.select(
                [], label=texts.DEFECT_CLASS, with_input=True, new_value_mode="add-unique", clearable=True
            )
            .props("dense outlined")
            .classes("w-full")
        )
        with ui.element("div").classes("bl-actions"):
            for text, key, icon, work in (
                (texts.DEFECT, "d", "report", self._confirm),
                (texts.FALSE_ALARM, "f", "notifications_off", self._false_alarm),
                (texts.GOOD, "g", "thumb_up", self._good),
                (texts.UNSURE, "u", "help", self._set_aside),
                (texts.NEXT, "n", "arrow_forward", self._next),
                (texts.UNDO, "z", "undo", self._undo),
            ):
                button = ui.button(text, icon=icon, on_click=self._once(work)).props(
                    "outline no-caps stack"
                )
                button.props["aria-keyshortcuts"] = key
                with button:
                    ui.label(key).classes("bl-key")

    async def _read_classes(self) -> None:
        async def read() -> None:
            classes = await self._view.session.call(review.read_classes, self._query.model)
            self._class.set_options(classes, value=classes[0] if classes else None)

        await self._view.quietly(read)

    def _once(self, work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """Return a function that ignores calls while an earlier one is at work."""

        async def run() -> None:
            if self._is_busy:
                return
            self._is_busy = True
            try:
                await work()
            finally:
                self._is_busy = False

        return run

    async def _on_key(self, event: KeyEventArguments) -> None:
        modifiers = event.modifiers
        if not event.action.keydown or modifiers.ctrl or modifiers.alt or modifiers.meta:
            return
        work = {
            "d": self._confirm,
            "f": self._false_alarm,
            "g": self._good,
            "u": self._set_aside,
            "n": self._next,
            "ArrowRight": self._next,
            "b": self._back,
            "ArrowLeft": self._back,
            "z": self._undo,
        }.get(event.key.name)
        if work is not None:
            await self._once(work)()
        elif event.key.name == "r":
            self._regions_switch.set_value(not self._regions_switch.value)
        elif event.key.name == "+":
            self._zoom()

    async def _confirm(self) -> None:
        name = (self._class.value or "").strip()
        if not name:
            ui.notify(texts.CLASS_MISSING, type="warning", position="top")
            self._class.run_method("focus")
            return
        await self._label(LABEL_CONFIRMED, name)

    async def _false_alarm(self) -> None:
        await self._label(LABEL_FALSE_ALARM)

    async def _good(self) -> None:
        await self._label(LABEL_GOOD)

    async def _label(self, label: Label.ValueType, label_class: str = "") -> None:
        at, before = self._at, self._item()

        async def assign() -> None:
            labelled = await self._view.session.call(
                review.assign, before, self._query.model, label, label_class
            )
            self._steps.append(_Step(at, before))
            self._unsure.discard(before.item)
            self._replace(at, labelled)
            await self._show_next_open(at)

        await self._change(at, assign)

    async def _change(self, at: int, work: Callable[[], Awaitable[None]]) -> None:
        """Label a frame; if another person did so meanwhile, show their label and change nothing."""

        async def attempt() -> None:
            try:
                await work()
            except Aborted:
                name = self._items[at].item
                found = await self._view.session.call(Client.item, name, self._query.model)
                self._replace(at, found)
                await self._show(at)
                ui.notify(texts.LABELLED_MEANWHILE, type="warning", position="top")

        await self._view.attempt(attempt)

    async def _set_aside(self) -> None:
        """Leave the frame without a label; it is shown again after the others."""
        item = self._item()
        self._unsure.add(item.item)
        self._redraw_thumbnail(item)
        await self._show_next_open(self._at)

    async def _next(self) -> None:
        if self._at + 1 == len(self._items) and self._next_page_token:
            await self._load_more()
        await self._show(self._at + 1)

    async def _back(self) -> None:
        await self._show(self._at - 1)

    async def _undo(self) -> None:
        if not self._steps:
            ui.notify(texts.NOTHING_TO_UNDO, position="top")
            return
        step = self._steps[-1]

        async def restore() -> None:
            before = step.before
            label = LABEL_NONE if review.is_unlabelled(before) else before.label
            restored = await self._view.session.call(
                review.assign, self._items[step.at], self._query.model, label, before.label_class
            )
            self._replace(step.at, restored)
            await self._show(step.at)

        self._steps.pop()
        await self._change(step.at, restore)

    async def _show_next_open(self, at: int) -> None:
        """Show the next frame without a label; frames that were set aside come last."""
        if self._next_page_token and not any(map(self._is_open, self._items[at + 1 :])):
            await self._load_more()
        order = [*range(at + 1, len(self._items)), *range(at + 1)]
        unlabelled = [each for each in order if review.is_unlabelled(self._items[each])]
        if not unlabelled:
            ui.notify(texts.ALL_DONE, type="positive", position="top")
            await self._show(at)
            return
        rest = [each for each in unlabelled if self._is_open(self._items[each])]
        await self._show((rest or unlabelled)[0])

    def _is_open(self, item: Hit) -> bool:
        return review.is_unlabelled(item) and item.item not in self._unsure

    def _replace(self, at: int, item: Hit) -> None:
        self._items[at] = item
        self._redraw_thumbnail(item)

    # The queue

    async def _load_more(self) -> None:
        async def read() -> None:
            page = await self._view.session.call(review.read_queue, self._query, self._next_page_token)
            known = {item.item for item in self._items}
            self._items += [item for item in page.items if item.item not in known]
            self._next_page_token = page.next_page_token

        if self._next_page_token:
            await self._view.attempt(read)

    async def _turn(self, pages: int) -> None:
        """Turn pages of the queue, and show the first frame of the new one."""
        first = self._first + pages * PAGE_SIZE
        if first >= len(self._items):
            await self._load_more()
        if 0 <= first < len(self._items):
            await self._show(first)

    async def _open(self, item: str) -> None:
        await self._show(self._position(item))

    def _position(self, item: str) -> int:
        return next(at for at, each in enumerate(self._items) if each.item == item)

    def _draw_strip(self, first: int) -> None:
        """Draw the page of the queue that begins at a position."""
        shown = self._items[first : first + PAGE_SIZE]
        self._first = first
        if [item.item for item in shown] != self._strip.ids:
            self._strip.show(map(self._strip_frame, shown))
            self._strip.select(self._selected)
        last = first + len(shown)
        self._range.set_text(texts.PAGE_RANGE.format(first=first + 1, last=last, total=self._total))
        self._earlier.set_enabled(first > 0)
        self._later.set_enabled(last < len(self._items) or bool(self._next_page_token))

    def _strip_frame(self, item: Hit) -> StripFrame:
        return StripFrame(
            item.item,
            self._image_path(item, _THUMBNAIL_PX),
            f"{item.camera} {when(item.time)}",
            _label_sign(item, is_unsure=item.item in self._unsure),
        )

    def _redraw_thumbnail(self, item: Hit) -> None:
        self._strip.redraw(self._strip_frame(item))

    # Many frames at once

    def _select(self, item: str, is_selected: bool) -> None:
        if is_selected:
            self._selected.add(item)
        else:
            self._selected.discard(item)
        self._selection_changed()

    def _select_all(self, *, is_selected: bool) -> None:
        if is_selected:
            shown = self._items[self._first : self._first + PAGE_SIZE]
            self._selected |= {item.item for item in shown}
        else:
            self._selected.clear()
        self._selection_changed()

    def _selection_changed(self) -> None:
        self._strip.select(self._selected)
        self._draw_bulk()

    def _draw_bulk(self) -> None:
        self._bulk.clear()
        with self._bulk:
            ui.button(texts.SELECT_ALL, on_click=lambda: self._select_all(is_selected=True)).props(
                "flat dense"
            )
            if not self._selected:
                return
            ui.button(texts.SELECT_NONE, on_click=lambda: self._select_all(is_selected=False)).props(
                "flat dense"
            )
            ui.label(texts.SELECTED.format(count=len(self._selected)))
            for text, label in (
                (texts.DEFECT, LABEL_CONFIRMED),
                (texts.FALSE_ALARM, LABEL_FALSE_ALARM),
                (texts.GOOD, LABEL_GOOD),
            ):
                self._draw_bulk_button(text, label)

    def _draw_bulk_button(self, text: str, label: Label.ValueType) -> None:
        ui.button(text, on_click=self._once(lambda: self._label_selected(label))).props(
            "outline dense no-caps"
        )

    async def _label_selected(self, label: Label.ValueType) -> None:
        name = (self._class.value or "").strip() if label == LABEL_CONFIRMED else ""
        if label == LABEL_CONFIRMED and not name:
            ui.notify(texts.CLASS_MISSING, type="warning", position="top")
            return
        done, failures = 0, list[BlemishError]()
        for at, item in enumerate(self._items):
            if item.item not in self._selected:
                continue
            try:
                labelled = await self._view.session.call(
                    review.assign, item, self._query.model, label, name
                )
            except Unauthenticated as error:
                self._view.show(error)
                return
            except BlemishError as error:
                failures.append(error)
                continue
            done += 1
            self._steps.append(_Step(at, item))
            self._selected.discard(item.item)
            self._replace(at, labelled)
        self._selection_changed()
        self._draw_facts()
        if failures:
            text = texts.BULK_PARTLY.format(count=done, failed=len(failures), reason=describe(failures[0]))
            ui.notify(text, type="warning", position="top", close_button=True, timeout=0)
        else:
            ui.notify(texts.BULK_DONE.format(count=done), type="positive", position="top")


def _outlines(item: Hit, width: int, height: int) -> str:
    """Return the regions as SVG. It has numbers only, none of the texts of an item."""
    shapes = "".join(
        f'<polygon points="{" ".join(f"{point.x:.1f},{point.y:.1f}" for point in region.contour)}"/>'
        for region in item.regions
    )
    return f'<svg viewBox="0 0 {width:d} {height:d}" preserveAspectRatio="none">{shapes}</svg>'


def _label_sign(item: Hit, *, is_unsure: bool) -> Sign:
    if is_unsure and review.is_unlabelled(item):
        return Sign(texts.UNSURE_SIGN, "help", "quiet")
    return theme.label_sign(item.label, item.label_class)


def _draw_summary(view: View, query: ReviewQuery, summary: review.Summary) -> None:
    hours = view.query.get("hours", "")
    period = texts.PERIODS.get(int(hours) if hours.isdecimal() else next(iter(texts.PERIODS)), hours)
    counts = summary.all
    with ui.row().classes("items-center w-full"):
        ui.label(texts.SUMMARY).classes("bl-h1")
        ui.space()
        back = f"/review?{urlencode(view.query)}"
        ui.button(texts.BACK_TO_REVIEW, icon="arrow_back", on_click=lambda: ui.navigate.to(back)).props(
            "flat"
        ).classes("bl-no-print")
        ui.button(texts.PRINT, icon="print", on_click=lambda: ui.run_javascript("window.print()")).props(
            "unelevated"
        ).classes("bl-no-print")
    with theme.card():
        ui.label(
            texts.SUMMARY_LEAD.format(
                model=short(query.model),
                period=period,
                frames=counts.frames,
                anomalous=counts.anomalous,
                open=counts.open,
            )
        )
        if not counts.frames:
            theme.empty(texts.NO_KEPT_FRAMES, icon="photo_library")
            return
        rows = [_summary_row(camera or texts.NO_CAMERA, each) for camera, each in summary.cameras.items()]
        if len(rows) > 1:
            rows.append(_summary_row(texts.ALL, counts))
        theme.table(texts.SUMMARY_COLUMNS, rows)
    if counts.classes:
        with theme.card():
            classes: list[tuple[str | Sign, ...]] = [
                (name, str(count)) for name, count in counts.classes.most_common()
            ]
            theme.table(texts.CLASS_COLUMNS, classes)


def _summary_row(camera: str, counts: review.FrameCounts) -> tuple[str | Sign, ...]:
    labels = (counts.labels[label] for label in (LABEL_CONFIRMED, LABEL_FALSE_ALARM, LABEL_GOOD))
    return (camera, *map(str, (counts.frames, counts.anomalous, *labels, counts.open)))
