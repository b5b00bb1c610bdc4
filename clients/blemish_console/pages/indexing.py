# SPDX-License-Identifier: Apache-2.0
"""The start of a job that adds the images of a dataset to the index of a model."""

from nicegui import ui

from blemish.v1.access_pb2 import ROLE_OPERATOR
from blemish_client.names import short
from blemish_console import texts
from blemish_console.data import train
from blemish_console.shell import View


def draw_indexing(view: View, model: str, datasets: list[str]) -> None:
    """Draw the button, and a choice if there are several datasets. Only operators see it.

    Args:
        view: page that shows it.
        model: model or version.
        datasets: names of the datasets whose images can be indexed.
    """
    if not datasets or not view.session.may(ROLE_OPERATOR):
        return
    wanted = datasets[0]

    def choose(name: str) -> None:
        nonlocal wanted
        wanted = name

    async def start() -> None:
        job = await view.session.call(train.start_indexing, model, wanted)
        ui.navigate.to(f"/train?job={short(job.name)}")

    with ui.row().classes("items-center"):
        if len(datasets) > 1:
            ui.select(
                datasets,
                value=wanted,
                label=texts.DATASET_FIELD,
                on_change=lambda change: choose(change.value),
            ).props("dense outlined options-dense").style("min-width: 180px")
        ui.button(texts.START_INDEXING, icon="playlist_add", on_click=lambda: view.attempt(start)).props(
            "unelevated"
        )
