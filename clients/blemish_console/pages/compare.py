# SPDX-License-Identifier: Apache-2.0
"""Compare: two versions on the same test images, with the images on which they differ."""

from urllib.parse import quote, urlencode

from nicegui import ui

from blemish.v1.access_pb2 import ROLE_OPERATOR
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, VERDICT_NORMAL
from blemish.v1.model_pb2 import ComparedImage, CompareModelsResponse, Interval, MetricComparison
from blemish_client.client import Client
from blemish_client.names import short
from blemish_console import texts, theme
from blemish_console.data import compare, models
from blemish_console.data.compare import DifferingImages, Obstacle, VersionPair
from blemish_console.formats import ABSENT, number, share
from blemish_console.shell import View
from blemish_console.theme import Sign

_THUMBNAIL_PX = 256
_REFRESH_S = 3.0
_RATES = ("detection_rate", "false_reject_rate")
_FEWER_IS_BETTER = "false_reject_rate"
_NAMES = {
    "image_auroc": texts.AUROC,
    "detection_rate": texts.DETECTED,
    "false_reject_rate": texts.REJECTED,
    "pixel_auroc": texts.PIXEL_AUROC,
    "aupro": texts.AUPRO,
}


async def build(view: View) -> None:
    """Draw the comparison of the model and the versions that the address names."""
    frame = ui.column().classes("w-full").style("gap: 16px")
    page = _ComparePage(view, frame)
    await view.section(frame, page.draw)
    ui.timer(_REFRESH_S, page.refresh, immediate=False)


class _ComparePage:
    """The choice of two versions, and below it their comparison or what it lacks."""

    def __init__(self, view: View, frame: ui.element) -> None:
        self._view = view
        self._frame = frame
        self._dataset = view.query.get("dataset", "")
        self._first = ""
        self._second = ""
        self._obstacle: Obstacle | None = None

    async def draw(self) -> None:
        all_models = await self._view.session.call(models.read_models)
        named = self._view.query.get("a", ""), self._view.query.get("b", "")
        choices, self._first, self._second = compare.versions_of(
            all_models, self._view.query.get("model", ""), named
        )
        found = await self._view.session.call(self._read)
        self._frame.clear()
        with self._frame:
            self._draw_choice(choices)
            self._result = ui.column().classes("w-full").style("gap: 16px; min-height: 420px")
        self._draw_result(found)

    def _read(self, client: Client) -> VersionPair | Obstacle:
        common = self._view.query.get("common", "") == "1"
        return compare.compare(client, self._first, self._second, self._dataset, common=common)

    async def refresh(self) -> None:
        """Read again while evaluations run that the comparison needs."""
        if self._obstacle is None or not self._obstacle.running or self._view.session.failure is not None:
            return

        async def read() -> None:
            found = await self._view.session.call(self._read)
            if found != self._obstacle:
                self._draw_result(found)

        await self._view.quietly(read)

    # Choice

    def _draw_choice(self, choices: list[str]) -> None:
        with ui.row().classes("w-full items-center").style("gap: 12px"):
            ui.label(texts.COMPARE).classes("bl-h1")
            for key, title, value in (
                ("a", texts.FIRST_VERSION, self._first),
                ("b", texts.SECOND_VERSION, self._second),
            ):
                ui.select(
                    choices,
                    value=value or None,
                    label=title,
                    on_change=lambda change, key=key: self._go(**{key: change.value}),
                ).props("dense outlined options-dense").style("min-width: 200px")
            ui.button(
                texts.SWAP, icon="swap_horiz", on_click=lambda: self._go(a=self._second, b=self._first)
            ).props("flat dense")

    def _go(self, **changed: str) -> None:
        parts = {
            "model": self._view.query.get("model", ""),
            "a": self._first,
            "b": self._second,
            "dataset": self._dataset,
            **changed,
        }
        ui.navigate.to(f"/compare?{urlencode({key: value for key, value in parts.items() if value})}")

    # Obstacles

    def _draw_result(self, found: VersionPair | Obstacle) -> None:
        self._obstacle = found if isinstance(found, Obstacle) else None
        self._result.clear()
        with self._result:
            if isinstance(found, Obstacle):
                self._draw_obstacle(found)
            else:
                self._draw_pair(found)

    def _draw_obstacle(self, obstacle: Obstacle) -> None:
        with theme.card():
            theme.empty(texts.NOT_COMPARED, obstacle.reason, "compare_arrows")
            with ui.row().classes("w-full justify-center items-center"):
                for dataset in obstacle.datasets:
                    ui.button(
                        texts.COMPARE_ON.format(dataset=dataset),
                        on_click=lambda dataset=dataset: self._go(dataset=dataset),
                    ).props("outline")
                if obstacle.running:
                    ui.spinner(size="20px")
                    ui.label(texts.EVALUATION_RUNS)
                    theme.link(texts.SHOW_JOB, f"/train?job={short(obstacle.running[0].name)}")
                elif obstacle.unmeasured and self._view.session.may(ROLE_OPERATOR):
                    ui.button(
                        texts.EVALUATE.format(
                            versions=texts.AND.join(obstacle.unmeasured), dataset=obstacle.dataset
                        ),
                        icon="play_arrow",
                        on_click=lambda: self._evaluate(obstacle),
                    ).props("unelevated")
                elif obstacle.unmeasured:
                    ui.label(texts.ASK_FOR_EVALUATION).classes("bl-faint")
                if obstacle.common_images:
                    ui.button(
                        texts.COMPARE_COMMON.format(count=obstacle.common_images),
                        on_click=lambda: self._go(common="1"),
                    ).props("flat")

    async def _evaluate(self, obstacle: Obstacle) -> None:
        async def start() -> None:
            await self._view.session.call(compare.evaluate, obstacle.unmeasured, obstacle.dataset)
            self._draw_result(await self._view.session.call(self._read))

        await self._view.attempt(start)

    # The comparison

    def _draw_pair(self, pair: VersionPair) -> None:
        found = pair.found
        first, second = short(found.first.name), short(found.second.name)
        with theme.card():
            ui.label(
                texts.COMPARED_ON.format(
                    first=first,
                    first_threshold=number(found.first.threshold),
                    second=second,
                    second_threshold=number(found.second.threshold),
                    good=found.good_images,
                    defective=found.defective_images,
                    dataset=short(found.dataset),
                )
            )
            if found.left_out:
                theme.problem(texts.LEFT_OUT.format(count=found.left_out), is_caution=True)
            columns = (texts.METRIC, first, second, texts.DIFFERENCE, texts.P_VALUE, "")
            theme.table(columns, [_row(each) for each in (*found.metrics, *found.pixel_metrics)])
            ui.label(texts.INTERVALS_LEAD).classes("bl-faint").style("font-size: 13px")
        if found.classes:
            with theme.card(texts.BY_CLASS):
                theme.table(
                    (texts.DEFECT_CLASS_COLUMN, texts.IMAGES, *columns[1:]),
                    [
                        (each.class_name, str(each.images), *_row(each.detection)[1:])
                        for each in found.classes
                    ],
                )
        with theme.card(texts.DIFFERING_IMAGES):
            for differing in pair.differing:
                self._draw_images(found, differing)

    def _draw_images(self, found: CompareModelsResponse, differing: DifferingImages) -> None:
        ui.label(f"{differing.title}: {differing.count or texts.NONE}").style("font-weight: 600")
        with ui.element("div").classes("bl-hits bl-compared"):
            for image in differing.images:
                self._draw_image(found, image)
        if (hidden := differing.count - len(differing.images)) > 0:
            ui.label(texts.MORE_IMAGES.format(count=hidden)).classes("bl-faint")

    def _draw_image(self, found: CompareModelsResponse, image: ComparedImage) -> None:
        name = image.original_path or image.path
        target = f"/data/image?{urlencode({'dataset': short(found.dataset), 'path': image.path})}"
        with ui.link(target=target).classes("bl-hit"):
            with ui.element("div").classes("bl-hit-picture"):
                picture = ui.element("img")
                # A replaced image has another address, as its evaluation has another snapshot.
                address = {"path": image.path, "side": _THUMBNAIL_PX, "of": found.first.dataset_snapshot}
                dataset = quote(short(found.dataset))
                picture.props["src"] = f"{self._view.root_path}/data/images/{dataset}?{urlencode(address)}"
                picture.props["alt"] = ""
                picture.props["loading"] = "lazy"
            for compared, score in (
                (found.first, image.first_score),
                (found.second, image.second_score),
            ):
                with ui.row().classes("w-full items-center no-wrap justify-between").style("gap: 6px"):
                    ui.label(short(compared.name)).classes("bl-name bl-faint")
                    ui.label(number(score)).classes("bl-number")
                    is_above = score > compared.threshold
                    theme.chip(theme.verdict_sign(VERDICT_ANOMALOUS if is_above else VERDICT_NORMAL))
            ui.label(name).classes("bl-name").tooltip(name)


def _row(metric: MetricComparison) -> tuple[str | Sign, ...]:
    is_rate = metric.name in _RATES
    sign: str | Sign = ABSENT
    if metric.HasField("difference_interval"):
        sign = difference_sign(metric)
    return (
        _NAMES.get(metric.name, metric.name),
        with_interval(metric.first, metric.first_interval, is_rate=is_rate),
        with_interval(metric.second, metric.second_interval, is_rate=is_rate),
        with_interval(metric.difference, metric.difference_interval, is_rate=is_rate, is_signed=True),
        number(metric.p_value) if metric.HasField("p_value") else ABSENT,
        sign,
    )


def difference_sign(metric: MetricComparison) -> Sign:
    """Return whether the second version is better beyond chance, worse, or neither."""
    if not compare.is_clear(metric):
        return Sign(texts.WITHIN_CHANCE, "drag_handle", "quiet")
    if (metric.difference > 0) != (metric.name == _FEWER_IS_BETTER):
        return Sign(texts.BETTER, "trending_up", "good")
    return Sign(texts.WORSE, "trending_down", "bad")


def with_interval(value: float, interval: Interval, *, is_rate: bool, is_signed: bool = False) -> str:
    def text(of: float) -> str:
        return f"{'+' if is_signed and of > 0 else ''}{share(of) if is_rate else number(of)}"

    if not interval.ByteSize():
        return text(value)
    low, high = (text(bound).removesuffix(" %") for bound in (interval.low, interval.high))
    return texts.VALUE_AND_RANGE.format(value=text(value), low=low, high=high)
