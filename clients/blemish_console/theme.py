# SPDX-License-Identifier: Apache-2.0
"""The look of all pages: colours, spacing and the signs of verdicts.

Colours are those of the palette of Okabe and Ito, made for colour-blind people. A verdict or a state is
never shown by its colour alone: it also has a sign of its own shape, and a word. The style is in
``templates/console.css``.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from nicegui import ui

from blemish.v1 import job_pb2
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, VERDICT_NORMAL, Verdict
from blemish.v1.search_pb2 import LABEL_CONFIRMED, LABEL_FALSE_ALARM, LABEL_GOOD, Hit, Label
from blemish_console import texts


@dataclass(frozen=True)
class Sign:
    """A state as word, shape and colour."""

    word: str
    icon: str
    """Name of an icon of Material Icons."""
    tone: str
    """One of good, bad, warn and quiet."""


AVAILABLE = Sign(texts.AVAILABLE, "check_circle", "good")
UNAVAILABLE = Sign(texts.UNAVAILABLE, "error", "bad")
NORMAL = Sign(texts.NORMAL, "check_circle", "good")
ANOMALOUS = Sign(texts.ANOMALOUS, "warning", "bad")
NO_VERDICT = Sign(texts.NO_VERDICT, "help", "quiet")
PRODUCTION = Sign(texts.PRODUCTION, "verified", "good")
SHADOW = Sign(texts.SHADOW, "visibility", "warn")
PINNED = Sign(texts.PINNED, "push_pin", "quiet")
NO_LABEL = Sign(texts.NO_LABEL, "label_off", "quiet")
_LABELS = {
    LABEL_CONFIRMED: Sign(texts.CONFIRMED, "report", "bad"),
    LABEL_FALSE_ALARM: Sign(texts.FALSE_ALARM, "notifications_off", "warn"),
    LABEL_GOOD: Sign(texts.GOOD, "thumb_up", "good"),
}
_JOB_STATES = {
    job_pb2.JOB_STATE_QUEUED: Sign(texts.QUEUED, "schedule", "quiet"),
    job_pb2.JOB_STATE_RUNNING: Sign(texts.RUNNING, "play_circle", "warn"),
    job_pb2.JOB_STATE_CANCELLING: Sign(texts.CANCELLING, "hourglass_bottom", "warn"),
    job_pb2.JOB_STATE_SUCCEEDED: Sign(texts.SUCCEEDED, "check_circle", "good"),
    job_pb2.JOB_STATE_FAILED: Sign(texts.JOB_FAILED, "error", "bad"),
    job_pb2.JOB_STATE_CANCELLED: Sign(texts.JOB_CANCELLED, "block", "quiet"),
}


def verdict_sign(verdict: Verdict.ValueType) -> Sign:
    return {VERDICT_NORMAL: NORMAL, VERDICT_ANOMALOUS: ANOMALOUS}.get(verdict, NO_VERDICT)


def label_sign(label: Label.ValueType, label_class: str = "") -> Sign:
    """Return the judgement of a person; ``label_class`` is the class of a confirmed defect."""
    if label == LABEL_CONFIRMED and label_class:
        return Sign(texts.CONFIRMED_AS.format(name=label_class), "report", "bad")
    return _LABELS.get(label, NO_LABEL)


def job_sign(state: job_pb2.JobState.ValueType) -> Sign:
    return _JOB_STATES.get(state, Sign(texts.UNKNOWN, "help", "quiet"))


@cache
def _style() -> str:
    return files("blemish_console").joinpath("templates/console.css").read_text()


def apply() -> None:
    """Add the style to the current page, and set the colours of the widgets."""
    ui.add_css(_style())
    ui.colors(primary="#0060a0", positive="#00694e", negative="#a83d00", warning="#8a6a00", dark="#1b2229")


def chip(sign: Sign) -> None:
    """Draw a state."""
    with ui.element("span").classes(f"bl-chip bl-chip-{sign.tone}"):
        ui.icon(sign.icon, size="16px")
        ui.label(sign.word)


def label_chip(item: Hit) -> None:
    """Draw the label of an indexed image, or without one the class of its dataset."""
    if item.label in _LABELS:
        chip(label_sign(item.label, item.label_class))
    elif item.dataset:
        chip(Sign(item.class_name, "folder", "quiet"))
    else:
        chip(NO_LABEL)


def link(text: str, target: str) -> None:
    """Draw a link to another page of the console."""
    with ui.link(target=target).classes("bl-link"):
        ui.label(text)


def problem(text: str, *, is_caution: bool = False) -> None:
    """Draw a failure, or with ``is_caution`` something to watch."""
    with ui.element("div").classes(f"bl-problem {'bl-caution' if is_caution else ''}"):
        ui.icon("warning" if is_caution else "error", size="20px")
        ui.label(text)


def card(title: str = "") -> ui.column:
    """Return a card to draw into."""
    frame = ui.column().classes("bl-card")
    if title:
        with frame:
            ui.label(title).classes("bl-title")
    return frame


def empty(text: str, lead: str = "", icon: str = "inbox") -> None:
    """Draw a state without contents, and the next step."""
    with ui.element("div").classes("bl-empty"):
        ui.icon(icon, size="32px")
        ui.label(text)
        if lead:
            ui.label(lead)


def facts(rows: list[tuple[str, str]]) -> None:
    """Draw names and values in two columns."""
    with ui.element("div").classes("bl-facts"):
        for name, value in rows:
            ui.label(name)
            ui.label(value)


def table(columns: tuple[str, ...], rows: list[tuple[str | Sign, ...]]) -> None:
    """Draw a table of texts and states. Texts are never interpreted as HTML."""
    with ui.element("div").classes("bl-scroll"), ui.element("table").classes("bl-table"):
        if any(columns):
            with ui.element("thead"), ui.element("tr"):
                for column in columns:
                    with ui.element("th"):
                        ui.label(column)
        with ui.element("tbody"):
            for row in rows:
                with ui.element("tr"):
                    for cell in row:
                        with ui.element("td"):
                            chip(cell) if isinstance(cell, Sign) else ui.label(cell)
