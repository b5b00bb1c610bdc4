# SPDX-License-Identifier: Apache-2.0
"""The threshold of a version on the histogram of its scores: moved, judged, and put into force."""

from collections.abc import Awaitable, Callable
from math import ceil, log10
from typing import Any
from urllib.parse import quote, urlencode

from nicegui import ui
from nicegui.events import GenericEventArguments

from blemish.v1.access_pb2 import ROLE_OPERATOR
from blemish.v1.model_pb2 import (
    Calibration,
    FlippedFrame,
    FlippedFrames,
    ModelVersion,
    PreviewCalibrationResponse,
)
from blemish_client.client import Client
from blemish_client.errors import BlemishError, Unauthenticated
from blemish_client.names import short
from blemish_console import texts, theme
from blemish_console.data import threshold
from blemish_console.data.threshold import GOOD, Change, ScoreHistogram
from blemish_console.formats import ABSENT, number, share, when
from blemish_console.shell import View, describe

_FRAMES, _MORE_FRAMES = 12, 48
_THUMBNAIL_PX = 160
_THROTTLE_S = 0.06
_SHARES_OF_STEP = 1000
_MOVE = """(e) => {
    const handle = e.currentTarget;
    if (!handle.hasPointerCapture(e.pointerId)) return;
    const area = handle.parentElement.getBoundingClientRect();
    const at = Math.min(1, Math.max(0, (e.clientX - area.left) / area.width));
    handle.style.setProperty("--at", at);
    emit(at);
}"""
"""Moves the line at once in the browser; the server follows."""
_KEYS = """(e) => {
    const keys = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "PageUp", "PageDown", "Home", "End"];
    if (!keys.includes(e.key)) return;
    e.preventDefault();
    emit(e.key);
}"""


class ThresholdCard:
    """The histogram, what another threshold would do, and the change of the calibration."""

    def __init__(
        self, view: View, version: ModelVersion, on_calibrated: Callable[[ModelVersion], Awaitable[None]]
    ) -> None:
        self._view = view
        self._version = version
        self._on_calibrated = on_calibrated
        self._threshold = version.calibration.threshold
        """Threshold that the line shows."""
        self._change: Change | None = None
        self._preview: PreviewCalibrationResponse | None = None
        self._days = next(iter(texts.FLIP_PERIODS))
        self._max_frames = _FRAMES
        self._wanted, self._read = 0, 0
        self._is_reading = False
        self._drawn_frames: list[str] | None = None
        self._typed = ("", "")
        self._after: list[ui.label] = []

    async def draw(self, frame: ui.element) -> None:
        """Read the scores, and draw the card into a frame."""
        scores = await self._view.session.call(Client.scores, self._version.name)
        preview = await self._view.session.call(
            threshold.read_preview, self._version.name, Change(self._threshold), self._days, _FRAMES
        )
        self._preview = preview
        frame.clear()
        with frame, theme.card(texts.THRESHOLD_CARD):
            self._draw_histogram(threshold.histogram(scores, self._threshold))
            self._draw_inputs()
            self._problem = ui.label().classes("bl-problem").props('role="alert"')
            self._problem.set_visibility(False)
            self._draw_figures(preview)
            if self._view.session.may(ROLE_OPERATOR):
                with ui.row().classes("w-full justify-end"):
                    self._calibrate = ui.button(
                        texts.CALIBRATE, icon="check", on_click=self._ask_for_calibration
                    ).props("unelevated")
            with ui.row().classes("w-full items-center no-wrap"):
                self._flips = ui.label().classes("col").props('aria-live="polite"')
                ui.select(texts.FLIP_PERIODS, value=self._days, on_change=self._choose_period).props(
                    f'dense outlined options-dense aria-label="{texts.FLIP_PERIOD}"'
                )
            self._strip = ui.element("div").classes("bl-strip").style("min-height: 132px")
            with ui.row().classes("w-full items-center").style("min-height: 36px"):
                self._more = ui.button(texts.LOAD_MORE, on_click=self._show_more).props("flat dense")
                self._in_review = ui.element("a").classes("bl-link")
                self._in_review.props["href"] = self._address(
                    "/review", model=short(self._version.name), show="all", order="least-certain", hours=0
                )
                with self._in_review:
                    ui.label(texts.FLIPS_IN_REVIEW)
        self._show(preview)

    def _address(self, path: str, **query: object) -> str:
        return f"{self._view.root_path}{path}?{urlencode({key: str(each) for key, each in query.items()})}"

    # The line

    def _draw_histogram(self, found: ScoreHistogram) -> None:
        self._axis = found.axis
        step = (found.axis.high - found.axis.low) / _SHARES_OF_STEP
        self._digits = max(0, ceil(-log10(step)))
        with ui.element("div").classes("bl-histogram"):
            ui.echart(_chart(found, self._threshold), renderer="svg").classes("bl-histogram-chart")
            self._area = ui.element("div").classes("bl-histogram-area")
            with self._area:
                self._handle = ui.element("div").classes("bl-threshold")
                with self._handle:
                    self._shown = ui.label().classes("bl-threshold-value")
        handle = self._handle
        handle.props["role"], handle.props["tabindex"] = "slider", 0
        handle.props["aria-label"] = texts.THRESHOLD
        handle.props["aria-valuemin"], handle.props["aria-valuemax"] = found.axis.low, found.axis.high
        handle.on("pointerdown", js_handler="(e) => e.currentTarget.setPointerCapture(e.pointerId)")
        handle.on("pointermove", self._drag, throttle=_THROTTLE_S, js_handler=_MOVE)
        handle.on("keydown", self._press, js_handler=_KEYS)
        self._place_line()

    def _place_line(self) -> None:
        """Show the threshold at its place. While the line is dragged, the browser has placed it already."""
        text = number(self._threshold)
        self._area.style(f"--at: {self._axis.share(self._threshold):.5f}")
        self._handle.props["aria-valuenow"] = self._threshold
        self._handle.props["aria-valuetext"] = text
        self._shown.set_text(text)

    def _release_line(self) -> None:
        """Let the line follow the threshold again after a drag."""
        ui.run_javascript(f"getHtmlElement({self._handle.id})?.style.removeProperty('--at')")

    async def _drag(self, event: GenericEventArguments) -> None:
        await self._move_to(round(self._axis.at(float(event.args)), self._digits))

    async def _press(self, event: GenericEventArguments) -> None:
        if (moved := self._axis.after_key(self._threshold, str(event.args))) is not None:
            self._release_line()
            await self._move_to(round(moved, self._digits))

    async def _move_to(self, score: float) -> None:
        self._threshold = score
        self._place_line()
        await self._try(Change(threshold=score))

    # The fields

    def _draw_inputs(self) -> None:
        with ui.row().classes("w-full items-start").style("gap: 12px"):
            self._score_field = self._field(texts.THRESHOLD_FIELD, self._type_score)
            self._target_field = self._field(texts.TARGET_FIELD_PERCENT, self._type_target)
            ui.space()
            ui.button(texts.AS_TRAINED, on_click=lambda: self._try(Change())).props("flat dense")
            ui.button(texts.IN_FORCE_AGAIN, icon="undo", on_click=self._reset).props("flat dense")

    def _field(self, name: str, take: Callable[[str], Awaitable[None]]) -> ui.input:
        field = ui.input(name).props("dense outlined inputmode=decimal").style("width: 168px")

        async def entered() -> None:
            await take(str(field.value or "").strip())

        field.on("keydown.enter", entered)
        field.on("blur", entered)
        return field

    async def _type_score(self, text: str) -> None:
        if text == self._typed[0]:
            return
        value = threshold.parse_number(text)
        if value is None:
            self._fail(texts.NOT_A_SCORE.format(text=text))
            return
        self._release_line()
        await self._move_to(value)

    async def _type_target(self, text: str) -> None:
        if text == self._typed[1] or not text:
            return
        value = threshold.parse_number(text.removesuffix("%").strip())
        if value is None or not 0 < value <= 50:
            self._fail(texts.NOT_A_TARGET.format(text=text))
            return
        await self._try(Change(target=value / 100))

    async def _reset(self) -> None:
        self._threshold = self._version.calibration.threshold
        self._release_line()
        self._place_line()
        await self._try(None)

    # The effect

    async def _choose_period(self, change: Any) -> None:
        self._days, self._max_frames = change.value, _FRAMES
        await self._try(self._change)

    async def _show_more(self) -> None:
        self._max_frames = min(self._max_frames + _MORE_FRAMES, threshold.MAX_FRAMES)
        await self._try(self._change)

    async def _try(self, change: Change | None) -> None:
        """Show what a change would do; None for no change. The latest one wins."""
        if change != self._change:
            self._max_frames = _FRAMES
        self._change = change
        self._wanted += 1
        if self._is_reading:
            return
        self._is_reading = True
        try:
            while self._read != self._wanted:
                self._read = self._wanted
                await self._read_preview(self._change)
        finally:
            self._is_reading = False

    async def _read_preview(self, change: Change | None) -> None:
        asked = change or Change(self._version.calibration.threshold)
        try:
            preview = await self._view.session.call(
                threshold.read_preview, self._version.name, asked, self._days, self._max_frames
            )
        except Unauthenticated as error:
            self._view.show(error)
            return
        except BlemishError as error:
            self._fail(describe(error))
            return
        if self._strip.is_deleted:
            return
        if change is not None and change.threshold is None and self._read == self._wanted:
            self._threshold = preview.after.threshold
            self._release_line()
            self._place_line()
        self._problem.set_visibility(False)
        self._show(preview)

    def _fail(self, message: str) -> None:
        if not self._strip.is_deleted:
            self._problem.set_text(message)
            self._problem.set_visibility(True)

    def _draw_figures(self, preview: PreviewCalibrationResponse) -> None:
        """Draw the figures at the threshold in force, and space for those at another one."""
        before = preview.before
        above = threshold.images_above(preview)
        rows = [(texts.THRESHOLD, number(before.threshold))]
        rows += [(texts.EXPECTED_REJECTS, _expected(before)), (texts.HELD_OUT_ABOVE, _held_out(before))]
        for each in above:
            name = texts.TEST_GOOD_ABOVE if each.name == GOOD else texts.CLASS_FOUND.format(name=each.name)
            rows.append((name, texts.OF.format(count=each.before, of=each.of)))
        with ui.element("div").classes("bl-scroll"), ui.element("table").classes("bl-table bl-effect"):
            with ui.element("thead"), ui.element("tr"):
                for column in ("", texts.IN_FORCE, texts.AT_THE_LINE):
                    with ui.element("th"):
                        ui.label(column)
            with ui.element("tbody"):
                for name, text in rows:
                    with ui.element("tr"):
                        with ui.element("td").classes("bl-faint"):
                            ui.label(name)
                        with ui.element("td").classes("bl-number bl-tight"):
                            ui.label(text)
                        with ui.element("td").classes("bl-number bl-tight").style("font-weight: 600"):
                            self._after.append(ui.label())
        if not above:
            ui.label(texts.NO_TEST_SCORES).classes("bl-faint")

    def _show(self, preview: PreviewCalibrationResponse) -> None:
        """Show the effect of the change, if there is one."""
        self._preview = preview
        is_changed = self._change is not None
        after = preview.after
        cells = [number(after.threshold), _expected(after), _held_out(after)]
        cells += [texts.OF.format(count=each.after, of=each.of) for each in threshold.images_above(preview)]
        for label, text in zip(self._after, cells, strict=True):
            label.set_text(text if is_changed else ABSENT)
        self._set_fields()
        self._flips.set_text(_flips_text(preview.flipped, self._days, is_changed=is_changed))
        self._draw_frames(list(preview.flipped.frames))
        count = preview.flipped.to_anomalous + preview.flipped.to_normal
        self._more.set_visibility(len(preview.flipped.frames) < min(count, threshold.MAX_FRAMES))
        self._in_review.set_visibility(count > 0)
        if self._view.session.may(ROLE_OPERATOR):
            self._calibrate.set_enabled(is_changed)

    def _set_fields(self) -> None:
        """Write the threshold and the target into their fields."""
        target = self._change.target if self._change is not None else None
        self._typed = (number(self._threshold), "" if target is None else f"{100 * target:g}")
        self._score_field.set_value(self._typed[0])
        self._target_field.set_value(self._typed[1])

    def _draw_frames(self, frames: list[FlippedFrame]) -> None:
        drawn = [each.item for each in frames]
        if drawn == self._drawn_frames:
            return
        self._drawn_frames = drawn
        self._strip.clear()
        with self._strip:
            for frame in frames:
                self._draw_frame(frame)

    def _draw_frame(self, frame: FlippedFrame) -> None:
        model = short(self._version.name)
        link = ui.element("a").classes("bl-thumb bl-flip")
        link.props["href"] = self._address("/search", model=model, item=frame.item)
        link.props["title"] = f"{frame.camera or ABSENT}, {when(frame.time)}"
        with link:
            picture = ui.element("img").classes("bl-thumb-image")
            path = f"{self._view.root_path}/images/{quote(model)}/{quote(frame.item)}"
            picture.props["src"] = f"{path}?side={_THUMBNAIL_PX}"
            picture.props["loading"] = "lazy"
            picture.props["alt"] = f"{frame.camera} {when(frame.time)}"
            theme.chip(theme.ANOMALOUS if frame.anomalous else theme.NORMAL)
            label = frame.label.lower().replace("_", " ")
            ui.label(f"{number(frame.score)} {label}".strip()).classes("bl-name bl-number")

    # The change

    async def _ask_for_calibration(self) -> None:
        """Ask before the change, with its effect and the reason for it."""
        # The preview on the screen may be an older one while the line moves.
        if self._change is None or self._preview is None or self._is_reading:
            return
        change, preview = self._change, self._preview
        with ui.dialog() as dialog, ui.card().classes("bl-card").style("max-width: 560px"):
            ui.label(texts.CONFIRM_CALIBRATION.format(version=short(self._version.name))).classes("bl-h1")
            for line in _effects(self._version, preview, self._days):
                ui.label(line)
            confirmed: ui.checkbox | None = None
            if preview.concern:
                ui.label(texts.CONCERN.format(concern=preview.concern)).classes("bl-problem bl-caution")
                confirmed = ui.checkbox(texts.ACKNOWLEDGE)
            comment = ui.input(texts.COMMENT).props("dense outlined maxlength=1000").classes("w-full")
            author: ui.input | None = None
            if not self._view.session.caller:
                author = ui.input(texts.NAME).props("dense outlined maxlength=100").classes("w-full")
            problem = ui.label().classes("bl-problem").props('role="alert"')
            problem.set_visibility(False)

            def submit() -> None:
                missing = ""
                if confirmed is not None and not confirmed.value:
                    missing = texts.ACKNOWLEDGE_MISSING
                elif author is not None and not (author.value or "").strip():
                    missing = texts.NAME_MISSING
                problem.set_text(missing)
                problem.set_visibility(bool(missing))
                if not missing:
                    dialog.submit(True)

            with ui.row().classes("w-full justify-end"):
                ui.button(texts.CANCEL, on_click=lambda: dialog.submit(False)).props("flat")
                ui.button(texts.CALIBRATE, on_click=submit).props("unelevated")

        async def calibrate() -> None:
            changed = await self._view.session.call(
                threshold.calibrate,
                self._version.name,
                change,
                author=(author.value or "").strip() if author is not None else "",
                comment=(comment.value or "").strip(),
                revision=preview.before.revision,
                acknowledge_extreme=bool(confirmed and confirmed.value),
            )
            await self._on_calibrated(changed)

        if await dialog:
            await self._view.attempt(calibrate)
        dialog.delete()


def _expected(calibration: Calibration) -> str:
    within = calibration.false_reject_rate_interval
    return texts.EXPECTED.format(
        rate=share(calibration.warranted_false_reject_rate),
        low=share(within.lower),
        high=share(within.upper),
    )


def _held_out(calibration: Calibration) -> str:
    return texts.OF.format(count=calibration.held_out_above, of=calibration.held_out_images)


def _flips_text(flipped: FlippedFrames, days: int, *, is_changed: bool) -> str:
    period = texts.FLIP_PERIODS[days]
    if flipped.unavailable:
        return texts.FLIPS_UNAVAILABLE.format(reason=flipped.unavailable)
    if not flipped.kept:
        return texts.FLIPS_WITHOUT_FRAMES.format(period=period)
    if not is_changed:
        return texts.FLIPS_BEFORE.format(kept=f"{flipped.kept:,}", period=period)
    count = flipped.to_anomalous + flipped.to_normal
    if not count:
        return texts.NO_FLIPS.format(kept=f"{flipped.kept:,}", period=period)
    verdict = texts.ANOMALOUS if flipped.to_anomalous else texts.NORMAL
    return texts.FLIPS.format(count=f"{count:,}", kept=f"{flipped.kept:,}", period=period, verdict=verdict)


def _effects(version: ModelVersion, preview: PreviewCalibrationResponse, days: int) -> list[str]:
    """Return what a change does, a sentence each."""
    before, after = preview.before, preview.after
    lines = [
        (texts.CALIBRATION_EFFECT if version.production else texts.CALIBRATION_LATER).format(
            before=number(before.threshold), after=number(after.threshold)
        ),
        texts.REJECTS_EFFECT.format(expected=_expected(after)),
    ]
    if found := [each for each in threshold.images_above(preview) if each.name != GOOD]:
        counts = {"before": sum(each.before for each in found), "after": sum(each.after for each in found)}
        lines.append(texts.FOUND_EFFECT.format(**counts, of=sum(each.of for each in found)))
    if preview.flipped.to_anomalous or preview.flipped.to_normal:
        lines.append(_flips_text(preview.flipped, days, is_changed=True))
    return lines


def _chart(found: ScoreHistogram, in_force: float) -> dict[str, Any]:
    """Return the options of the chart: a step line for each kind of image."""
    series = [
        _steps(found, texts.HELD_OUT_SCORES, found.held_out, "#7f8a96", kind="dashed", opacity=0.0),
        _steps(found, texts.GOOD_SCORES, found.good, "#1f8fd0", kind="solid", opacity=0.3),
        _steps(found, texts.DEFECTIVE_SCORES, found.defective, "#d5622a", kind="solid", opacity=0.3),
    ]
    series[0]["markLine"] = {
        "silent": True,
        "symbol": "none",
        "label": {"formatter": texts.IN_FORCE, "position": "insideEndTop", "fontSize": 11.5},
        "lineStyle": {"type": "dotted", "color": "#7f8a96", "width": 1.5},
        "data": [{"xAxis": in_force}],
        "animation": False,
    }
    return {
        "animation": False,
        "grid": {"left": 40, "right": 16, "top": 52, "bottom": 40},
        "legend": {"top": 0, "left": 36, "itemHeight": 10, "icon": "roundRect"},
        "xAxis": {
            "type": "value",
            "min": found.axis.low,
            "max": found.axis.high,
            "name": texts.SCORE,
            "nameLocation": "middle",
            "nameGap": 24,
            "splitLine": {"show": False},
            "axisLabel": {"showMinLabel": False, "showMaxLabel": False, "hideOverlap": True},
        },
        "yAxis": {"type": "value", "minInterval": 1, "splitLine": {"lineStyle": {"color": "#7f8a9640"}}},
        "series": series,
    }


def _steps(
    found: ScoreHistogram, name: str, counts: list[int], colour: str, *, kind: str, opacity: float
) -> dict[str, Any]:
    edges = [found.axis.low + each * found.width for each in range(len(counts) + 1)]
    return {
        "type": "line",
        "name": name,
        "step": "end",
        "symbol": "none",
        "color": colour,
        "lineStyle": {"width": 1.75, "type": kind},
        "areaStyle": {"opacity": opacity},
        "data": list(zip(edges, [*counts, counts[-1]], strict=True)),
    }
