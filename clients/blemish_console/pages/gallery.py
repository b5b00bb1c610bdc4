# SPDX-License-Identifier: Apache-2.0
"""A dataset as galleries by class: select, remove and move images."""

from collections.abc import Awaitable, Callable
from urllib.parse import quote, urlencode

from nicegui import ui

from blemish.v1.access_pb2 import ROLE_OPERATOR
from blemish.v1.dataset_pb2 import Dataset, DatasetImage
from blemish_client.client import Client
from blemish_client.names import short
from blemish_console import texts, theme
from blemish_console.data import datasets
from blemish_console.data.datasets import DatasetEntry, GalleryScores, Group, Images
from blemish_console.formats import number, size, when
from blemish_console.pages import dataset_image
from blemish_console.pages.indexing import draw_indexing
from blemish_console.pages.upload_box import UploadBox
from blemish_console.shell import View

_PAGE = 60
_TILE_PX = 256
_NEW = "new"
_MAX_MODELS = 3
_MAX_NAMED = 5


def address(name: str, folder: str = "", model: str = "") -> str:
    """Return the address of a dataset's galleries, of one class and with scores if they are given."""
    parts = {"dataset": name, "group": folder, "model": model}
    return f"/data?{urlencode({key: value for key, value in parts.items() if value})}"


def counted(forms: dict[bool, str], count: int) -> str:
    """Return a number with its noun in the right form."""
    return forms[count == 1].format(count=count)


def contents(dataset: Dataset) -> str:
    """Return the kind of surface, and the numbers of defect classes and masks."""
    defects = len(datasets.groups(dataset)) - 2
    parts = [
        dataset.category,
        counted(texts.DATA_CLASSES, defects),
        counted(texts.DATA_MASKS, dataset.masks),
    ]
    return " · ".join(parts)


def picture(view: View, dataset: str, image: DatasetImage, side_px: int) -> ui.element:
    """Draw an image of a dataset."""
    query = {"path": image.path, "side": side_px, "v": image.sha256.hex()[:16]}
    drawn = ui.element("img")
    drawn.props["src"] = f"{view.root_path}/data/images/{quote(dataset)}?{urlencode(query)}"
    drawn.props["alt"] = ""
    drawn.props["loading"] = "lazy"
    return drawn


def trained(entry: DatasetEntry) -> str:
    """Return the models that were trained from a dataset."""
    if not entry.models:
        return texts.DATA_NOT_TRAINED
    names = ", ".join(entry.models[:_MAX_MODELS])
    if len(entry.models) > _MAX_MODELS:
        names = texts.DATA_TRAINED_MORE.format(models=names, count=len(entry.models) - _MAX_MODELS)
    return texts.DATA_TRAINED.format(models=names)


def title(group: Group) -> str:
    """Return the name of a class for people."""
    return {datasets.TRAIN: texts.DATA_TRAIN_GOOD, "test/good": texts.DATA_TEST_GOOD}.get(
        group.folder, group.class_name
    )


class DatasetPage:
    """A dataset: facts, upload, and the gallery of one class."""

    def __init__(self, view: View, name: str) -> None:
        self._view = view
        self._name = name
        self._box: UploadBox | None = None

    async def draw(self) -> None:
        """Draw the page."""
        self._head = ui.column().classes("w-full")
        self._upload = ui.column().classes("w-full")
        self._body = ui.column().classes("w-full")
        await self.refresh()

    async def refresh(self) -> None:
        """Draw what the server has now; an upload in progress stays."""
        await self._view.section(self._body, self._draw)

    async def _draw(self) -> None:
        entry = await self._view.session.call(datasets.read_dataset, self._name)
        known = datasets.groups(entry.dataset)
        wanted = self._view.query.get("group", "")
        group = next((each for each in known if each.folder == wanted), None)
        if group is None:  # the class is empty by now, or the address names none
            group = next((each for each in known if each.count), known[0])
        images = await self._view.session.call(datasets.read_images, entry.name, group.folder)
        model = self._view.query.get("model", "")
        scores = GalleryScores()
        if model:
            scores = await self._view.session.call(datasets.read_scores, model, entry.name, group.folder)
        for part in (self._head, self._body):
            part.clear()
        is_operator = self._view.session.may(ROLE_OPERATOR)
        with self._head:
            _draw_head(self._view, entry, is_operator=is_operator)
        if is_operator:
            self._draw_upload(known, group)
        with self._body:
            _Gallery(self._view, self.refresh, entry, group, images, scores).draw(known)

    def _draw_upload(self, known: list[Group], group: Group) -> None:
        folders = [(each.folder, title(each)) for each in known]
        if self._box is None:
            with self._upload:
                self._box = UploadBox(self._view, self._name, folders, group.folder, self.refresh)
                self._box.classes("w-full")
        else:
            self._box.set_folders(folders, group.folder)


class _Gallery:
    """The images of one class in pages, of which some may be selected."""

    def __init__(
        self,
        view: View,
        refresh: Callable[[], Awaitable[None]],
        entry: DatasetEntry,
        group: Group,
        images: Images,
        scores: GalleryScores,
    ) -> None:
        self._view = view
        self._refresh = refresh
        self._entry = entry
        self._group = group
        self._listed = images
        self._scores = scores
        self._model = view.query.get("model", "")
        self._images = scores.ordered(images.images) if scores.by_path else images.images
        self._page = 1
        self._chosen: set[str] = set()
        self._known: list[Group] = []
        self._is_operator = view.session.may(ROLE_OPERATOR)

    def draw(self, known: list[Group]) -> None:
        self._known = known
        with theme.card():
            self._draw_groups(known)
            with ui.row().classes("w-full items-center").style("min-height: 40px; gap: 10px"):
                self._draw_tools()
            if self._model and self._images:
                self._draw_score_note()
            self._tiles = ui.element("div").classes("bl-gallery")
            self._pages = ui.row().classes("w-full items-center justify-center")
        self._draw_page()

    def _draw_groups(self, known: list[Group]) -> None:
        with ui.element("nav").classes("bl-groups"):
            for each in known:
                link = ui.link(target=address(self._entry.name, each.folder, self._model)).classes(
                    "bl-group"
                )
                if each.folder == self._group.folder:
                    link.classes("bl-group-here").props("aria-current=page")
                with link:
                    ui.icon("flag" if each.is_defective else "check_circle", size="16px")
                    ui.label(title(each)).classes("bl-name").style("font-size: 14px")
                    ui.label(f"{each.count:,}").classes("bl-number")

    def _draw_tools(self) -> None:
        self._state = ui.label().classes("bl-faint")
        ui.space()
        versions = self._entry.versions
        if self._images and versions:
            choices = versions if self._model in ("", *versions) else [self._model, *versions]
            ui.select(
                {"": texts.DATA_NO_SCORES} | {each: each for each in choices},
                value=self._model,
                label=texts.DATA_SCORES,
                on_change=lambda change: ui.navigate.to(
                    address(self._entry.name, self._group.folder, change.value)
                ),
            ).props("dense outlined options-dense").style("min-width: 170px")
        if self._is_operator and self._images:
            self._select_page = ui.button(
                texts.DATA_SELECT_PAGE, icon="select_all", on_click=self._choose_page
            ).props("flat dense")
            self._clear = ui.button(texts.DATA_SELECT_NONE, icon="deselect", on_click=self._choose_none)
            self._clear.props("flat dense")
            self._move = ui.button(texts.DATA_MOVE, icon="drive_file_move", on_click=self._ask_to_move)
            self._move.props("flat dense")
            self._remove = ui.button(texts.DATA_REMOVE, icon="delete", on_click=self._ask_to_remove)
            self._remove.props("flat dense")

    def _draw_score_note(self) -> None:
        is_training = self._group.folder == datasets.TRAIN
        if self._scores.by_path:
            text = texts.DATA_SCORES_OF_TRAINING if is_training else texts.DATA_SCORES_OF_INDEX
        elif is_training:
            text = texts.DATA_NOT_TRAINED_SCORES
        else:
            text = texts.DATA_NOT_INDEXED
        with ui.row().classes("items-center"):
            ui.label(text.format(model=self._model)).classes("bl-faint")
            if not self._scores.by_path and not is_training:
                draw_indexing(self._view, self._model, [self._entry.name])

    def _draw_score(self, image: DatasetImage) -> None:
        found = self._scores.by_path.get(image.path)
        with ui.row().classes("items-center").style("gap: 6px; min-height: 26px"):
            if found is None:
                ui.label(texts.DATA_WITHOUT_SCORE).classes("bl-faint").style("font-size: 12.5px")
                return
            sign = theme.verdict_sign(found.verdict)
            theme.chip(theme.Sign(number(found.score), sign.icon, sign.tone))
            if not found.is_held_out:
                ui.label(texts.DATA_LEARNED).classes("bl-faint").style("font-size: 12.5px")

    def _draw_page(self) -> None:
        self._tiles.clear()
        self._pages.clear()
        self._shots: dict[str, tuple[ui.element, ui.checkbox]] = {}
        with self._tiles:
            for image in self._shown:
                self._draw_tile(image)
        if not self._images:
            with self._pages:
                lead = texts.DATA_NO_IMAGES_LEAD if self._is_operator else texts.DATA_NO_IMAGES_LEAD_READER
                theme.empty(texts.DATA_NO_IMAGES, lead, "add_photo_alternate")
        with self._pages:
            if len(self._images) > _PAGE:
                ui.pagination(
                    1,
                    -(-len(self._images) // _PAGE),
                    value=self._page,
                    direction_links=True,
                    on_change=lambda event: self._turn(event.value),
                ).props("max-pages=9 boundary-numbers")
        self._show_selection()

    @property
    def _shown(self) -> list[DatasetImage]:
        return self._images[(self._page - 1) * _PAGE : self._page * _PAGE]

    def _turn(self, page: int) -> None:
        self._page = page
        self._draw_page()

    def _draw_tile(self, image: DatasetImage) -> None:
        name = (image.original_path or image.path).rpartition("/")[2]
        with ui.element("div").classes("bl-shot") as tile:
            target = dataset_image.address(self._entry.name, image.path)
            with ui.link(target=target).classes("bl-shot-picture") as opener:
                picture(self._view, self._entry.name, image, _TILE_PX)
            opener.props["aria-label"] = texts.DATA_OPEN.format(name=name)
            if self._is_operator:
                check = ui.checkbox(
                    value=image.path in self._chosen,
                    on_change=lambda event: self._choose(image.path, bool(event.value)),
                ).classes("bl-shot-check")
                check.props("dense")
                check.props["aria-label"] = texts.DATA_SELECT_ONE.format(name=name)
                self._shots[image.path] = (tile, check)
            label = ui.label(name).classes("bl-name")
            if self._scores.by_path:
                self._draw_score(image)
            label.props["title"] = image.original_path or image.path
            ui.label(f"{image.width} x {image.height}").classes("bl-faint bl-number").style(
                "font-size: 12.5px"
            )

    # Selection

    def _choose(self, path: str, is_chosen: bool) -> None:
        if is_chosen:
            self._chosen.add(path)
        else:
            self._chosen.discard(path)
        self._show_selection()

    def _choose_page(self) -> None:
        for _, check in self._shots.values():
            check.set_value(True)

    def _choose_none(self) -> None:
        self._chosen.clear()
        for _, check in self._shots.values():
            check.set_value(False)
        self._show_selection()

    def _show_selection(self) -> None:
        for path, (tile, _) in self._shots.items():
            tile.classes(
                add="bl-shot-chosen" if path in self._chosen else "",
                remove="" if path in self._chosen else "bl-shot-chosen",
            )
        total = counted(texts.DATA_IMAGES, len(self._images))
        cut = texts.DATA_CUT.format(count=datasets.MAX_IMAGES) if self._listed.is_cut else ""
        chosen = texts.DATA_SELECTED.format(count=len(self._chosen)) if self._chosen else ""
        self._state.set_text(" · ".join(filter(None, [total, cut, chosen])))
        if self._is_operator and self._images:
            for button in (self._clear, self._move, self._remove):
                button.set_enabled(bool(self._chosen))

    # Changes

    async def _ask_to_move(self) -> None:
        paths = sorted(self._chosen)
        choices = {each.folder: title(each) for each in self._known if each.folder != self._group.folder}
        with ui.dialog() as dialog, ui.card().classes("bl-card").style("width: 520px; max-width: 94vw"):
            ui.label(counted(texts.DATA_MOVE_TITLE, len(paths))).classes("bl-h1")
            folder = ui.select(choices | {_NEW: texts.UPLOAD["new_class"]}, label=texts.UPLOAD["class"])
            folder.props("outlined dense options-dense").classes("w-full")
            new = ui.input(texts.UPLOAD["class_name"]).props("outlined dense").classes("w-full")
            new.bind_visibility_from(folder, "value", lambda value: value == _NEW)
            ui.label(texts.DATA_MOVE_EFFECT).classes("bl-faint")
            with ui.row().classes("w-full justify-end"):
                ui.button(texts.CANCEL, on_click=lambda: dialog.submit(False)).props("flat")
                ui.button(texts.DATA_MOVE, on_click=lambda: dialog.submit(True)).props(
                    "unelevated"
                ).bind_enabled_from(folder, "value", bool)
        while await dialog:
            target = f"test/{(new.value or '').strip()}" if folder.value == _NEW else str(folder.value)

            async def move(target: str = target) -> None:
                masks = await self._view.session.call(datasets.move, self._entry.name, paths, target)
                text = counted(texts.DATA_MOVED, len(paths))
                if masks:
                    text = f"{text}, {counted(texts.DATA_MASKS_DELETED, masks)}"
                ui.notify(text, type="positive", position="top")

            if await self._view.attempt(move):
                break
        dialog.delete()
        await self._refresh()

    async def _ask_to_remove(self) -> None:
        paths = sorted(self._chosen)
        with ui.dialog() as dialog, ui.card().classes("bl-card").style("max-width: 520px"):
            ui.label(counted(texts.DATA_REMOVE_TITLE, len(paths))).classes("bl-h1")
            ui.label(texts.DATA_REMOVE_EFFECT)
            with ui.row().classes("w-full justify-end"):
                ui.button(texts.CANCEL, on_click=lambda: dialog.submit(False)).props("flat")
                ui.button(texts.DATA_REMOVE, on_click=lambda: dialog.submit(True)).props(
                    "unelevated color=negative"
                )
        if await dialog:

            async def remove() -> None:
                removed = await self._view.session.call(datasets.remove, self._entry.name, paths)
                ui.notify(counted(texts.DATA_REMOVED, removed), type="positive", position="top")

            await self._view.attempt(remove)
            await self._refresh()
        dialog.delete()


def _draw_head(view: View, entry: DatasetEntry, *, is_operator: bool) -> None:
    dataset = entry.dataset
    with ui.row().classes("w-full items-center no-wrap"):
        with ui.column().style("gap: 2px; min-width: 0"):
            with ui.link(target="/data").classes("bl-link bl-back"):
                ui.icon("arrow_back", size="18px")
                ui.label(texts.DATA_ALL)
            ui.label(entry.name).classes("bl-h1")
            facts = [contents(dataset), size(dataset.size_bytes), when(dataset.create_time)]
            ui.label(" · ".join(facts)).classes("bl-faint")
            ui.label(trained(entry)).classes("bl-faint")
        ui.space()
        if is_operator:
            ui.button(
                texts.DATA_DELETE, icon="delete", on_click=lambda: _ask_to_delete(view, dataset)
            ).props("flat")
    if notes := [*dataset.warnings, *_pairing_notes(entry)]:
        with theme.card(texts.DATA_NOTES):
            for warning in notes:
                with ui.row().classes("no-wrap items-start").style("gap: 8px"):
                    ui.icon("info", size="18px").style("margin-top: 2px")
                    ui.label(warning).style("overflow-wrap: anywhere; min-width: 0")


def _pairing_notes(entry: DatasetEntry) -> list[str]:
    """Return sentences about masks and images that do not belong together."""
    unpaired = entry.unpaired
    found = (
        (texts.DATA_MASKS_ALONE, unpaired.masks_count, unpaired.masks),
        (texts.DATA_IMAGES_ALONE, unpaired.images_count, unpaired.images),
    )
    notes = []
    for forms, count, paths in found:
        if count:
            names = ", ".join(paths[:_MAX_NAMED])
            more = texts.DATA_NAMED_MORE.format(count=count - _MAX_NAMED) if count > _MAX_NAMED else ""
            notes.append(f"{counted(forms, count)}: {names}{more}")
    return notes


async def _ask_to_delete(view: View, dataset: Dataset) -> None:
    name = short(dataset.name)
    count = sum(each.count for each in datasets.groups(dataset)) + dataset.masks
    with ui.dialog() as dialog, ui.card().classes("bl-card").style("max-width: 520px"):
        ui.label(texts.DATA_DELETE_TITLE.format(name=name)).classes("bl-h1")
        ui.label(texts.DATA_DELETE_EFFECT.format(count=count))
        typed = ui.input(texts.DATA_NAME).props("outlined dense autofocus").classes("w-full")
        with ui.row().classes("w-full justify-end"):
            ui.button(texts.CANCEL, on_click=lambda: dialog.submit(False)).props("flat")
            ui.button(texts.DATA_DELETE, on_click=lambda: dialog.submit(True)).props(
                "unelevated color=negative"
            ).bind_enabled_from(typed, "value", lambda value: value == name)
    if await dialog:

        async def delete() -> None:
            await view.session.call(Client.delete_dataset, name)
            ui.navigate.to("/data")

        await view.attempt(delete)
    dialog.delete()
