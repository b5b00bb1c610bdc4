# SPDX-License-Identifier: Apache-2.0
"""``blemish info``: version, limits and state of the server."""

from collections.abc import Iterable

import typer
from rich.markup import escape
from rich.table import Table

from blemish.v1.access_pb2 import Role
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS
from blemish.v1.inspection_pb2 import Priority, StreamPolicy
from blemish.v1.server_pb2 import CameraActivity, Disk, LastInspection, OpenStream
from blemish_client.cli.choices import spell
from blemish_client.cli.options import Json
from blemish_client.cli.output import ABSENT, emit, number, size, table, verdict, when
from blemish_client.cli.session import Session
from blemish_client.names import short


def info(ctx: typer.Context, as_json: Json = False) -> None:
    """Show the server's version, limits, loaded models, disk, dependencies, open streams and cameras.

    Example: blemish info
    """
    session = Session.of(ctx)
    with session.client() as client:
        server = client.server_info()
    if as_json:
        emit(server)
        return
    limits = server.limits
    rows = table("", "", title=f"blemish {server.version} at {session.server}")
    rows.show_header = False
    rows.add_row("running since", when(server.start_time))
    if server.caller:
        priority = spell(Priority, server.most_urgent)
        rows.add_row("caller", f"{server.caller}, {spell(Role, server.role)}, priority up to {priority}")
    rows.add_row("device", server.device)
    rows.add_row("detectors", ", ".join(server.detectors))
    rows.add_row("loaded models", ", ".join(map(short, server.loaded_models)) or "none")
    rows.add_row(
        "images",
        f"{limits.min_image_side} to {limits.max_image_side} px per side, "
        f"{limits.max_image_pixels / 1e6:.0f} megapixels, {size(limits.max_image_bytes)}",
    )
    waiting = sum(server.waiting_images.values())
    rows.add_row("queue", f"{waiting} images wait, at most {limits.max_queued} per model")
    if server.HasField("disk"):
        rows.add_row("disk", _disk(server.disk))
    for dependency in server.dependencies:
        state = (
            "available" if dependency.available else f"[red]unavailable[/red]: {escape(dependency.detail)}"
        )
        rows.add_row(dependency.name, state)
        for warning in dependency.warnings:
            rows.add_row("", f"[yellow]warning[/yellow]: {escape(warning)}")
    session.out.print(rows)
    if server.streams:
        session.out.print(_streams(server.streams))
    if server.cameras:
        session.out.print(_cameras(server.cameras))
    if server.HasField("disk") and not server.streams:  # an older server describes neither
        session.out.print("no stream is open")


def _disk(disk: Disk) -> str:
    free = f"{size(disk.free_bytes)} free of {size(disk.total_bytes)}"
    if not disk.shortage:
        return free
    return f"{free}, [red]full[/red]: {escape(disk.shortage)}"


def _streams(streams: Iterable[OpenStream]) -> Table:
    names = ("frames/s", "frames", "dropped", "refused")
    rows = table(
        *("cameras", "model", "caller", "policy", "since"),
        *names,
        "last",
        title="open streams",
        right=names,
    )
    for stream in streams:
        rows.add_row(
            escape(", ".join(stream.cameras)) or ABSENT,
            escape(short(stream.model)),
            escape(stream.caller) or ABSENT,
            spell(StreamPolicy, stream.policy),
            when(stream.start_time),
            number(stream.frames_per_second, 1),
            *map(str, (stream.frames, stream.dropped_frames, stream.refused_frames)),
            _last(stream.last) if stream.HasField("last") else ABSENT,
        )
    return rows


def _cameras(cameras: Iterable[CameraActivity]) -> Table:
    rows = table("camera", "images/s", "model", "last", title="cameras", right=("images/s",))
    for camera in cameras:
        rows.add_row(
            escape(camera.camera),
            number(camera.images_per_second, 1),
            escape(short(camera.last.model_version)),
            _last(camera.last),
        )
    return rows


def _last(last: LastInspection) -> str:
    """Return the verdict, score and time of the latest image."""
    style = "red" if last.verdict == VERDICT_ANOMALOUS else "green"
    return f"[{style}]{verdict(last.verdict)}[/{style}], score {number(last.score)}, {when(last.time)}"
