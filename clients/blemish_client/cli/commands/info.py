# SPDX-License-Identifier: Apache-2.0
"""``blemish info``: version, limits and state of the server."""

import typer
from rich.markup import escape

from blemish.v1.access_pb2 import Role
from blemish.v1.inspection_pb2 import Priority
from blemish_client.cli.choices import spell
from blemish_client.cli.options import Json
from blemish_client.cli.output import emit, size, table, when
from blemish_client.cli.session import Session
from blemish_client.names import short


def info(ctx: typer.Context, as_json: Json = False) -> None:
    """Show the server's version, limits, loaded models and dependencies.

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
    rows.add_row("queue", f"{limits.max_queued} images per model")
    for dependency in server.dependencies:
        state = "available" if dependency.available else f"[red]unavailable[/red]: {dependency.detail}"
        rows.add_row(dependency.name, state)
        for warning in dependency.warnings:
            rows.add_row("", f"[yellow]warning[/yellow]: {escape(warning)}")
    session.out.print(rows)
