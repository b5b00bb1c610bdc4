# SPDX-License-Identifier: Apache-2.0
"""``blemish info``: what the server is and whether it has all it needs."""

import typer

from blemish.v1.access_pb2 import Role
from blemish.v1.inspection_pb2 import Priority
from blemish_client.cli.options import Json
from blemish_client.cli.output import emit, size, table, when
from blemish_client.cli.session import Session
from blemish_client.names import short


def info(ctx: typer.Context, as_json: Json = False) -> None:
    """Show the server's version, limits, loaded models and dependencies."""
    session = Session.of(ctx)
    with session.client() as client:
        told = client.server_info()
    if as_json:
        emit(told)
        return
    limits = told.limits
    rows = table("", "", title=f"blemish {told.version} at {session.server}")
    rows.show_header = False
    rows.add_row("running since", when(told.start_time))
    if told.caller:
        urgency = Priority.Name(told.most_urgent).removeprefix("PRIORITY_").replace("_", "-").lower()
        rows.add_row(
            "you",
            f"{told.caller}, {Role.Name(told.role).removeprefix('ROLE_').lower()}, images up to {urgency}",
        )
    rows.add_row("device", told.device)
    rows.add_row("detectors", ", ".join(told.detectors))
    rows.add_row("loaded models", ", ".join(map(short, told.loaded_models)) or "none yet")
    rows.add_row(
        "images",
        f"{limits.min_image_side} to {limits.max_image_side} px a side, "
        f"{limits.max_image_pixels / 1e6:.0f} megapixels, {size(limits.max_image_bytes)}",
    )
    rows.add_row("queue", f"{limits.max_queued} images a model")
    for needed in told.dependencies:
        answer = "answers" if needed.available else f"[red]away[/red]: {needed.detail}"
        rows.add_row(needed.name, answer)
    session.out.print(rows)
