# SPDX-License-Identifier: Apache-2.0
"""Line: one tile a camera with its last frame, verdict and figures, live."""

import math
from collections.abc import Iterable
from urllib.parse import urlencode

from nicegui import ui
from nicegui.events import ValueChangeEventArguments

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS
from blemish.v1.inspection_pb2 import InspectionEvent
from blemish_client.names import short
from blemish_console import texts, theme
from blemish_console.data.line import MAX_P_VALUES, LineCamera, LineWatch
from blemish_console.formats import ABSENT, clock, duration, number, share
from blemish_console.shell import View, describe
from blemish_console.theme import Sign

MAX_TILES = 64
"""Number of cameras that are drawn."""
MAX_BOXES = 16
"""Number of regions that are drawn over a frame."""
_FILTER_FROM = 7
"""Number of cameras from which on a part of their name can be chosen."""
_REFRESH_S = 0.25
_LOWEST_P_VALUE = 1e-3
"""Lower end of the sparkline, whose scale is logarithmic."""
_SPARK_WIDTH, _SPARK_HEIGHT = 240, 40
_TONES = ("good", "bad", "warn", "quiet")


async def build(view: View) -> None:
    """Draw the page. Its timer starts when a browser has connected, and with it the watch."""
    _LinePage(view.session.line, view.query.get("camera", ""), f"{view.root_path}/line")


class _LinePage:
    """The tiles of all cameras, and the state of the watch above them."""

    def __init__(self, watch: LineWatch, wanted: str, address: str) -> None:
        """Draw the page.

        Args:
            watch: watch of the server.
            wanted: part of the names of the cameras to show; empty for all.
            address: address of the page.
        """
        self._watch = watch
        self._wanted = wanted
        self._address = address
        self._is_counted = False
        self._tiles: dict[str, _CameraTile] = {}
        with ui.element("div").classes("bl-line-note bl-chip-bad").props('role="status"') as self._failed:
            ui.icon("cloud_off", size="26px")
            self._reason = ui.label()
        with ui.element("div").classes("bl-line-note bl-chip-warn").props('role="status"') as self._lost:
            ui.icon("hourglass_disabled", size="26px")
            self._lost_count = ui.label()
        with ui.element("div").classes("bl-line-note bl-chip-quiet") as self._more:
            self._more_count = ui.label()
        self._filter = (
            ui.input(texts.CAMERA_FILTER, value=wanted, on_change=self._set_wanted)
            .props("dense outlined clearable debounce=200")
            .classes("bl-line-filter")
        )
        self._filter.set_visibility(bool(wanted))
        for note in (self._failed, self._lost, self._more):
            note.set_visibility(False)
        with theme.card() as self._waiting:
            theme.empty(texts.LINE_WAITING, icon="hourglass_empty")
        with theme.card() as self._empty:
            theme.empty(texts.NO_CAMERAS, texts.NO_CAMERAS_LEAD, "videocam_off")
        with theme.card() as self._unmatched:
            theme.empty(texts.NO_CAMERA_MATCHES, texts.NO_CAMERA_MATCHES_LEAD, "filter_alt_off")
        self._empty.set_visibility(False)
        self._unmatched.set_visibility(False)
        self._grid = ui.element("div").classes("bl-line")
        ui.context.client.on_delete(self._close)
        ui.timer(_REFRESH_S, self._refresh)

    def _close(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._watch.page_closed()

    def _set_wanted(self, change: ValueChangeEventArguments[str | None]) -> None:
        self._wanted = (change.value or "").strip()
        query = f"?{urlencode({'camera': self._wanted})}" if self._wanted else ""
        ui.navigate.history.replace(f"{self._address}{query}")
        self._refresh()

    def _refresh(self) -> None:
        if not self._is_counted:
            self._is_counted = True
            self._watch.page_opened()
        watch = self._watch
        self._refresh_notes(watch)
        names = matching(watch.cameras, self._wanted)
        shown = names[:MAX_TILES]
        for name in [name for name in self._tiles if name not in shown]:
            self._tiles.pop(name).root.delete()
        for place, name in enumerate(shown):
            if name not in self._tiles:
                with self._grid:
                    self._tiles[name] = _CameraTile(name)
                self._tiles[name].root.move(self._grid, place)
            self._tiles[name].update(watch.cameras[name], watch.now_s)
        self._waiting.set_visibility(not watch.has_begun and watch.failure is None)
        self._empty.set_visibility(watch.has_begun and not watch.cameras)
        self._unmatched.set_visibility(bool(watch.cameras) and not names)
        self._filter.set_visibility(len(watch.cameras) >= _FILTER_FROM or bool(self._filter.value))
        self._more.set_visibility(len(names) > MAX_TILES)
        self._more_count.set_text(texts.MORE_CAMERAS.format(count=len(names) - MAX_TILES))

    def _refresh_notes(self, watch: LineWatch) -> None:
        failure = watch.failure
        if failure is not None:
            since = duration(watch.now_s - watch.failed_s)
            self._reason.set_text(texts.LINE_LOST.format(since=since, reason=describe(failure)))
        if self._failed.visible != (failure is not None):
            self._failed.set_visibility(failure is not None)
            self._grid.classes(**({"add": "bl-line-old"} if failure else {"remove": "bl-line-old"}))
        self._lost.set_visibility(watch.lost > 0)
        self._lost_count.set_text(texts.VERDICTS_LOST.format(count=watch.lost))


class _CameraTile:
    """The tile of a camera. It sends to the browser only what has changed."""

    def __init__(self, name: str) -> None:
        self._revision = -1
        self._tone = ""
        self._picture: InspectionEvent | None = None
        with ui.element("section").classes("bl-tile") as self.root:
            with ui.element("div").classes("bl-tile-head"):
                ui.label(name).classes("bl-tile-name").props["title"] = name
                self._model = ui.label().classes("bl-faint")
            with ui.element("div").classes("bl-tile-verdict").props('role="status"') as self._verdict:
                self._icon = ui.icon("help", size="44px")
                self._word = ui.label()
            with ui.element("div").classes("bl-tile-frame"):
                self._no_picture = ui.icon("image", size="44px").classes("bl-faint")
                self._image = ui.element("img").props('alt=""')
                self._image.set_visibility(False)
                self._boxes = ui.element("svg")
                self._picture_time = ui.label().classes("bl-tile-time")
                self._picture_time.set_visibility(False)
            with ui.element("div").classes("bl-tile-score"):
                self._score = ui.label(ABSENT).classes("bl-tile-number")
                self._threshold = ui.label().classes("bl-faint")
            with ui.element("div").classes("bl-meter"):
                self._meter = ui.element("div").classes("bl-meter-fill")
                ui.element("div").classes("bl-meter-mark")
            with ui.element("div").classes("bl-tile-figures"):
                self._rate = _figure(texts.FRAMES_PER_SECOND)
                self._dropped = _figure(texts.DROPPED)
                self._refused = _figure(texts.REFUSED)
                self._hour = _figure(texts.HOUR_SHARE)
            ui.label(texts.P_VALUES.format(count=MAX_P_VALUES)).classes("bl-faint bl-tile-small")
            size = f"0 0 {_SPARK_WIDTH} {_SPARK_HEIGHT}"
            svg = ui.element("svg").classes("bl-spark")
            with svg.props(f'viewBox="{size}" preserveAspectRatio="none" aria-hidden="true"'):
                self._spark = ui.element("polyline").props('fill="none" vector-effect="non-scaling-stroke"')
            self._anomaly = ui.label().classes("bl-faint bl-tile-small")

    def update(self, camera: LineCamera, now_s: float) -> None:
        """Draw the state of the camera at a time of the watch's clock."""
        self._draw_verdict(camera, now_s)
        anomaly = texts.NO_ANOMALY
        if camera.anomalous_s is not None:
            anomaly = texts.LAST_ANOMALY_AGO.format(age=duration(now_s - camera.anomalous_s))
        self._anomaly.set_text(anomaly)
        if camera.revision == self._revision:
            return
        self._revision = camera.revision
        self._rate.set_text(number(camera.state.images_per_second, 1))
        self._dropped.set_text(f"{camera.state.dropped:,}")
        self._refused.set_text(f"{camera.state.refused:,}")
        self._hour.set_text(share(camera.hour_share))
        if camera.last is not None:
            self._draw_score(camera.last)
            _set(self._spark, "points", spark_points(camera.p_values))
        if camera.picture is not self._picture and camera.picture is not None:
            self._draw_picture(camera.picture, camera.picture_url)

    def _draw_verdict(self, camera: LineCamera, now_s: float) -> None:
        sign = verdict_of(camera, now_s)
        self._word.set_text(sign.word)
        self._icon.set_name(sign.icon)
        if sign.tone != self._tone:
            self._tone = sign.tone
            tones = " ".join(f"bl-chip-{tone}" for tone in _TONES)
            self._verdict.classes(remove=tones, add=f"bl-chip-{sign.tone}")

    def _draw_score(self, event: InspectionEvent) -> None:
        self._model.set_text(short(event.model_version))
        self._score.set_text(number(event.score))
        self._threshold.set_text(texts.SCORE_AGAINST.format(threshold=number(event.threshold)))
        tone = "bad" if event.verdict == VERDICT_ANOMALOUS else "good"
        filled = meter_percent(event.score, event.threshold)
        _set(self._meter, "style", f"width: {filled:.0f}%; background: var(--bl-{tone})")

    def _draw_picture(self, event: InspectionEvent, url: str) -> None:
        self._picture = event
        self._no_picture.set_visibility(False)
        self._image.set_visibility(True)
        _set(self._image, "src", url)
        self._picture_time.set_visibility(True)
        self._picture_time.set_text(f"{clock(event.time)} · {theme.verdict_sign(event.verdict).word}")
        if not event.regions and not self._boxes.default_slot.children:
            return
        self._boxes.clear()
        _set(self._boxes, "viewBox", f"0 0 {event.width} {event.height}")
        with self._boxes:
            for left, top, width, height in boxes(event):
                place = f'x="{left}" y="{top}" width="{width}" height="{height}"'
                ui.element("rect").props(f'{place} fill="none" vector-effect="non-scaling-stroke"')


def matching(names: Iterable[str], wanted: str) -> list[str]:
    """Return the names that contain the text in upper or lower case, in order."""
    return sorted(name for name in names if wanted.casefold() in name.casefold())


def verdict_of(camera: LineCamera, now_s: float) -> Sign:
    """Return what the tile of a camera shows from afar."""
    if (silent_s := camera.silent_s(now_s)) is not None:
        return Sign(texts.SILENT_FOR.format(time=duration(silent_s)), "videocam_off", "warn")
    return theme.verdict_sign(camera.last.verdict) if camera.last is not None else theme.NO_VERDICT


def meter_percent(score: float, threshold: float) -> float:
    """Return the length of the bar of a score, in percent. The threshold is in the middle."""
    if threshold <= 0 or not math.isfinite(score):
        return 0.0
    return min(100.0, max(0.0, 50 * score / threshold))


def spark_points(p_values: Iterable[float]) -> str:
    """Return the points of the sparkline. The newest value is at the right end."""
    values = list(p_values)
    step = _SPARK_WIDTH / (MAX_P_VALUES - 1)
    first = MAX_P_VALUES - len(values)
    points = []
    for place, value in enumerate(values, first):
        depth = math.log(min(1.0, max(value, _LOWEST_P_VALUE))) / math.log(_LOWEST_P_VALUE)
        points.append(f"{place * step:.1f},{2 + depth * (_SPARK_HEIGHT - 4):.1f}")
    return " ".join(points)


def boxes(event: InspectionEvent) -> list[tuple[int, int, int, int]]:
    """Return left, top, width and height of regions, in px of the part of the image that was scored."""
    left, top = (event.region.left, event.region.top) if event.HasField("region") else (0, 0)
    return [
        (each.box.left - left, each.box.top - top, each.box.width, each.box.height)
        for each in event.regions[:MAX_BOXES]
    ]


def _figure(name: str) -> ui.label:
    with ui.element("div"):
        value = ui.label(ABSENT).classes("bl-tile-figure")
        ui.label(name).classes("bl-faint bl-tile-small")
    return value


def _set(element: ui.element, name: str, value: str) -> None:
    if element.props.get(name) != value:
        element.props[name] = value
        element.update()
