# SPDX-License-Identifier: Apache-2.0
"""System: health of every part, queues, loaded models, disk, index sizes, callers and recent changes."""

from collections.abc import Callable
from typing import TypeVar

import grpc
from nicegui import ui

from blemish.v1.access_pb2 import ROLE_OPERATOR, ROLE_SERVICE
from blemish.v1.audit_pb2 import AuditEntry
from blemish.v1.job_pb2 import Worker
from blemish.v1.server_pb2 import GetServerInfoResponse, OpenStream
from blemish_client.names import short
from blemish_console import texts, theme
from blemish_console.data import system
from blemish_console.data.outcome import CallOutcome
from blemish_console.formats import ABSENT, number, size, when
from blemish_console.shell import View, describe
from blemish_console.theme import AVAILABLE, UNAVAILABLE, Sign

_REFRESH_S = 5.0
_SHOWN_ENTRIES = 20
_CODES = {code.value[0]: code.name.replace("_", " ").lower() for code in grpc.StatusCode}
_FULL = Sign(texts.DISK_FULL, "error", "bad")
_NO_WORKER = Sign(texts.NONE, "error", "bad")

_Value = TypeVar("_Value")


async def build(view: View) -> None:
    """Draw the page. Each part reads its own data, so that one that fails leaves the others."""
    with ui.element("div").classes("bl-grid").style("grid-template-columns: minmax(0, 3fr) minmax(0, 2fr)"):
        with theme.card(texts.HEALTH):
            health = ui.column().classes("w-full").style("min-height: 190px")
        with theme.card(texts.LOADED):
            loaded = ui.column().classes("w-full").style("min-height: 190px")
    if view.session.may(ROLE_SERVICE):
        with ui.element("div").classes("bl-grid").style("grid-template-columns: repeat(2, minmax(0, 1fr))"):
            with theme.card(texts.JOBS):
                jobs = ui.column().classes("w-full").style("min-height: 110px")
            with theme.card(texts.INDEX):
                index = ui.column().classes("w-full").style("min-height: 110px")
    with theme.card(texts.STREAMS):
        streams = ui.column().classes("w-full").style("min-height: 110px")
    with theme.card(texts.CALLERS):
        callers = ui.column().classes("w-full").style("min-height: 110px")
    with theme.card(texts.AUDIT):
        audit = ui.column().classes("w-full").style("min-height: 110px")

    async def refresh() -> None:
        info = await view.session.refresh()
        is_service = view.session.may(ROLE_SERVICE)
        workers = await view.session.call(system.read_workers) if is_service else None
        _redraw(health, lambda: _draw_health(info, workers))
        _redraw(loaded, lambda: _draw_loaded(info))
        _redraw(streams, lambda: _draw_streams(list(info.streams)))
        if is_service:
            found = await view.session.call(system.read_jobs)
            _redraw(jobs, lambda: _draw_jobs(found))

    async def refresh_slowly() -> None:
        if view.session.may(ROLE_SERVICE):
            sizes = await view.session.call(system.read_index_sizes)
            _redraw(index, lambda: _draw_index(sizes))
        if view.session.may(ROLE_OPERATOR):
            entries = await view.session.call(system.read_audit)
            has_names = bool(view.session.caller)
            _redraw(callers, lambda: _draw_callers(entries, has_names=has_names))
            _redraw(audit, lambda: _draw_audit(entries))
        else:
            for each in (callers, audit):
                _redraw(each, lambda: theme.empty(texts.AUDIT_FOR_OPERATORS, icon="lock"))

    async def refresh_quietly() -> None:
        if view.session.failure is None:
            await view.quietly(refresh)

    await view.section(health, refresh)
    await view.section(audit, refresh_slowly)
    ui.timer(_REFRESH_S, refresh_quietly)
    ui.timer(6 * _REFRESH_S, lambda: view.quietly(refresh_slowly))


def _redraw(frame: ui.element, draw: Callable[[], None]) -> None:
    frame.clear()
    with frame:
        draw()


def _value(outcome: CallOutcome[_Value]) -> _Value | None:
    """Return the value, or draw the error in its place."""
    if outcome.error is not None:
        theme.empty(texts.FAILED, describe(outcome.error), "cloud_off")
    return outcome.value


def _draw_health(info: GetServerInfoResponse, workers: CallOutcome[list[Worker]] | None) -> None:
    since = texts.SERVER_SINCE.format(
        version=info.version, since=when(info.start_time), device=info.device or texts.UNKNOWN
    )
    rows: list[tuple[str | Sign, ...]] = [(texts.SERVER, AVAILABLE, since)]
    for part in info.dependencies:
        detail = "; ".join(filter(None, [part.detail, *part.warnings]))
        rows.append((part.name.capitalize(), AVAILABLE if part.available else UNAVAILABLE, detail))
    rows += _disk_rows(info)
    if workers is not None:
        rows += _worker_rows(workers)
    theme.table(("", "", ""), rows)


def _disk_rows(info: GetServerInfoResponse) -> list[tuple[str | Sign, ...]]:
    if not info.HasField("disk"):
        return [(texts.DISK, theme.Sign(texts.UNKNOWN, "help", "quiet"), texts.DISK_UNKNOWN)]
    free = texts.DISK_FREE.format(free=size(info.disk.free_bytes), total=size(info.disk.total_bytes))
    if info.disk.shortage:
        return [(texts.DISK, _FULL, f"{free}; {info.disk.shortage}")]
    return [(texts.DISK, AVAILABLE, free)]


def _worker_rows(workers: CallOutcome[list[Worker]]) -> list[tuple[str | Sign, ...]]:
    if workers.error is not None:
        return [(texts.WORKERS, UNAVAILABLE, describe(workers.error))]
    if not workers.value:
        return [(texts.WORKERS, _NO_WORKER, texts.NO_WORKERS)]
    return [
        (
            f"{texts.WORKER} {worker.name}",
            AVAILABLE,
            texts.WORKER_DETAIL.format(
                version=worker.version,
                queues=", ".join(worker.queues),
                jobs=texts.WORKER_JOBS.format(count=len(worker.jobs)),
            ),
        )
        for worker in workers.value
    ]


def _draw_loaded(info: GetServerInfoResponse) -> None:
    if not info.loaded_models:
        theme.empty(texts.NOTHING_LOADED, icon="memory")
        return
    ui.label(
        texts.LOADED_SIZE.format(used=size(info.loaded_bytes), limit=size(info.max_loaded_bytes))
    ).classes("bl-faint")
    theme.table(
        texts.LOADED_COLUMNS,
        [
            (short(name), info.runtimes.get(name, ABSENT), _waiting(info, name))
            for name in info.loaded_models
        ],
    )


def _waiting(info: GetServerInfoResponse, name: str) -> str:
    """Return how many images wait for a model."""
    if name not in info.waiting_images:
        return ABSENT
    count, limit = info.waiting_images[name], info.limits.max_queued
    return texts.WAITING_IMAGES.format(count=f"{count:,}", limit=f"{limit:,}")


def _draw_jobs(jobs: CallOutcome[system.Jobs]) -> None:
    if (found := _value(jobs)) is None:
        return
    with ui.row().style("gap: 48px"):
        for count, name in ((found.queued, texts.QUEUED), (found.running, texts.RUNNING)):
            _figure(str(count), name)


def _figure(value: str, name: str) -> None:
    with ui.column().style("gap: 0"):
        ui.label(value).classes("bl-figure")
        ui.label(name).classes("bl-faint")


def _draw_index(sizes: CallOutcome[dict[str, int]]) -> None:
    if (found := _value(sizes)) is None:
        return
    if not found:
        theme.empty(texts.NO_INDEX, icon="image_search")
        return
    rows: list[tuple[str | Sign, ...]] = [(short(name), f"{count:,}") for name, count in found.items()]
    theme.table(("model", texts.INDEXED_IMAGES), rows)


def _draw_streams(streams: list[OpenStream]) -> None:
    if not streams:
        theme.empty(texts.NO_STREAMS, icon="videocam_off")
        return
    theme.table(
        texts.STREAM_COLUMNS,
        [
            (
                ", ".join(stream.cameras) or ABSENT,
                short(stream.model),
                stream.caller or ABSENT,
                number(stream.frames_per_second, 1),
                str(stream.frames),
                str(stream.dropped_frames),
                str(stream.refused_frames),
                theme.verdict_sign(stream.last.verdict),
            )
            for stream in streams
        ],
    )


def _draw_callers(entries: CallOutcome[list[AuditEntry]], *, has_names: bool) -> None:
    if (found := _value(entries)) is None:
        return
    if not has_names:
        ui.label(texts.ADDRESS_CALLERS).classes("bl-faint")
    if not found:
        theme.empty(texts.NO_AUDIT, icon="group")
        return
    theme.table(
        texts.CALLER_COLUMNS,
        [
            (each.name, str(each.changes), str(each.failed), each.last_action, when(each.last_time))
            for each in system.callers(found)
        ],
    )


def _draw_audit(entries: CallOutcome[list[AuditEntry]]) -> None:
    if (found := _value(entries)) is None:
        return
    if not found:
        theme.empty(texts.NO_AUDIT, icon="history")
        return
    theme.table(texts.AUDIT_COLUMNS, [_audit_row(entry) for entry in found[:_SHOWN_ENTRIES]])


def _audit_row(entry: AuditEntry) -> tuple[str | Sign, ...]:
    details = [f"{name}={value}" for name, value in sorted(entry.details.items())]
    if entry.message:
        details.append(entry.message)
    return (
        when(entry.time),
        entry.caller,
        entry.action,
        ", ".join(map(short, entry.resources)),
        _status(entry),
        "; ".join(details),
    )


def _status(entry: AuditEntry) -> Sign:
    if not entry.HasField("end_time"):
        return Sign(texts.RUNNING, "pending", "quiet")
    word = _CODES.get(entry.code, str(entry.code))
    return Sign(word, "check_circle", "good") if entry.code == 0 else Sign(word, "error", "bad")
