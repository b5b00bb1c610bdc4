# SPDX-License-Identifier: Apache-2.0
"""Data: the datasets, and each dataset as galleries by class."""

import time
from functools import partial

from nicegui import ui

from blemish.v1.access_pb2 import ROLE_OPERATOR
from blemish.v1.dataset_pb2 import Dataset
from blemish_client.client import Client
from blemish_console import texts, theme
from blemish_console.data import datasets
from blemish_console.data.datasets import DatasetEntry
from blemish_console.formats import duration, size, when
from blemish_console.pages import gallery
from blemish_console.shell import View

_PAGE = 24
_COVER_PX = 128


async def build(view: View) -> None:
    """Draw the list of datasets, or the galleries of the one that the address names."""
    if name := view.query.get("dataset", ""):
        await gallery.DatasetPage(view, name).draw()
        return
    frame = ui.column().classes("w-full")
    await view.section(frame, lambda: _draw(view, frame))


async def _draw(view: View, frame: ui.element) -> None:
    entries = await view.session.call(datasets.read_datasets)
    frame.clear()
    with frame:
        await _DatasetList(view, entries).draw()


class _DatasetList:
    """All datasets as cards, in pages."""

    def __init__(self, view: View, entries: list[DatasetEntry]) -> None:
        self._view = view
        self._entries = entries
        self._page = 1

    async def draw(self) -> None:
        is_operator = self._view.session.may(ROLE_OPERATOR)
        with ui.row().classes("w-full items-center"):
            ui.label(texts.DATA_TITLE).classes("bl-h1")
            ui.space()
            self._find = ui.input(texts.DATA_FIND, on_change=self._refresh).props(
                "dense outlined clearable debounce=250"
            )
            if is_operator:
                ui.button(texts.DATA_NEW, icon="add", on_click=self._create).props("unelevated")
        self._list = ui.column().classes("w-full")
        if not self._entries:
            self._find.set_visibility(False)
            with self._list, theme.card():
                lead = texts.DATA_NONE_LEAD if is_operator else texts.DATA_NONE_LEAD_READER
                theme.empty(texts.DATA_NONE, lead, "photo_library")
            return
        await self._draw_page()

    async def _refresh(self) -> None:
        self._page = 1
        await self._draw_page()

    async def _turn(self, page: int) -> None:
        self._page = page
        await self._draw_page()

    async def _draw_page(self) -> None:
        text = (self._find.value or "").strip().lower()
        found = [
            each for each in self._entries if text in each.name or text in each.dataset.category.lower()
        ]
        shown = found[(self._page - 1) * _PAGE : self._page * _PAGE]
        self._list.clear()
        with self._list:
            if not found:
                with theme.card():
                    theme.empty(texts.DATA_NONE_FOUND, texts.DATA_NONE_FOUND_LEAD, "search_off")
            with ui.element("div").classes("bl-datasets"):
                covers = [(each, self._draw_card(each)) for each in shown]
            if len(found) > _PAGE:
                ui.pagination(
                    1,
                    -(-len(found) // _PAGE),
                    value=self._page,
                    direction_links=True,
                    on_change=lambda event: self._turn(event.value),
                )
        for entry, cover in covers:
            await self._view.quietly(partial(self._draw_covers, entry, cover))

    def _draw_card(self, entry: DatasetEntry) -> ui.element:
        dataset = entry.dataset
        with ui.link(target=gallery.address(entry.name)).classes("bl-dataset"):
            cover = ui.element("div").classes("bl-covers")
            with ui.row().classes("w-full items-baseline no-wrap justify-between"):
                ui.label(entry.name).classes("bl-name").style("font-size: 17px; font-weight: 600")
                ui.label(size(dataset.size_bytes)).classes("bl-faint bl-number")
            ui.label(_counts(dataset))
            ui.label(gallery.contents(dataset)).classes("bl-faint").style("font-size: 13px")
            ui.label(_age(dataset)).classes("bl-faint").style("font-size: 13px")
            ui.label(gallery.trained(entry)).classes("bl-name" if entry.models else "bl-name bl-faint")
            if dataset.warnings:
                theme.chip(theme.Sign(f"{texts.DATA_NOTES}: {len(dataset.warnings)}", "info", "warn"))
        return cover

    async def _draw_covers(self, entry: DatasetEntry, cover: ui.element) -> None:
        images = await self._view.session.call(datasets.read_covers, entry.name)
        if not cover.is_deleted:
            with cover:
                for image in images:
                    gallery.picture(self._view, entry.name, image, _COVER_PX)

    async def _create(self) -> None:
        with ui.dialog() as dialog, ui.card().classes("bl-card").style("max-width: 460px"):
            ui.label(texts.DATA_NEW).classes("bl-h1")
            name = ui.input(texts.DATA_NAME).props(
                f'outlined dense autofocus hint="{texts.DATA_NAME_HINT}"'
            )
            category = ui.input(texts.DATA_CATEGORY).props(
                f'outlined dense hint="{texts.DATA_CATEGORY_HINT}"'
            )
            for field in (name, category):
                field.classes("w-full").style("margin-bottom: 8px")
                field.on("keydown.enter", lambda: dialog.submit(True))
            with ui.row().classes("w-full justify-end"):
                ui.button(texts.CANCEL, on_click=lambda: dialog.submit(False)).props("flat")
                ui.button(texts.DATA_CREATE, on_click=lambda: dialog.submit(True)).props("unelevated")
        while await dialog:
            made = (name.value or "").strip()

            async def create(made: str = made) -> None:
                chosen = (category.value or "").strip()
                await self._view.session.call(Client.create_dataset, made, category=chosen)

            if await self._view.attempt(create):
                ui.navigate.to(gallery.address(made))
                break
        dialog.delete()


def _counts(dataset: Dataset) -> str:
    train, good, *defects = datasets.groups(dataset)
    return texts.DATA_COUNTS.format(
        train=f"{train.count:,}", good=f"{good.count:,}", bad=f"{sum(each.count for each in defects):,}"
    )


def _age(dataset: Dataset) -> str:
    age_s = max(time.time() - dataset.create_time.ToSeconds(), 0)
    return texts.DATA_CREATED.format(time=when(dataset.create_time), age=duration(age_s))
