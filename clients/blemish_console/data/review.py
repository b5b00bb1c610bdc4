# SPDX-License-Identifier: Apache-2.0
"""Kept frames as a queue to review, their labels, their neighbours, and the summary of a shift."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from heapq import merge
from itertools import islice

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS
from blemish.v1.search_pb2 import LABEL_NONE, LABEL_UNSPECIFIED, Hit, Label
from blemish_client.client import Client
from blemish_client.errors import NotFound
from blemish_client.names import short

PAGE_SIZE = 100
"""Number of frames that are read at once."""
_MAX_LEAST_CERTAIN = 1000
_MAX_CLASSES_READ = 2000
_NEIGHBOURS = 6


class Order(StrEnum):
    """The order of the queue."""

    NEWEST = "newest"
    LEAST_CERTAIN = "least-certain"
    HIGHEST_SCORE = "highest-score"


class Shown(StrEnum):
    """The frames in the queue."""

    TO_REVIEW = "to-review"
    ANOMALOUS = "anomalous"
    ALL = "all"


_CONDITIONS = {
    Shown.TO_REVIEW: "verdict = anomalous AND label = none",
    Shown.ANOMALOUS: "verdict = anomalous",
    Shown.ALL: "",
}
_ORDERS = {Order.NEWEST: "time desc", Order.HIGHEST_SCORE: "score desc"}


@dataclass(frozen=True)
class ReviewQuery:
    """The frames that a person reviews."""

    model: str
    since: datetime | None = None
    """Earliest time, with a zone."""
    camera: str = ""
    shown: Shown = Shown.TO_REVIEW
    order: Order = Order.NEWEST
    until: datetime | None = None
    """Latest time, with a zone."""

    @property
    def condition(self) -> str:
        """The filter of the frames."""
        parts = ["source = camera", _CONDITIONS[self.shown]]
        if self.since is not None:
            parts.append(f'time >= "{self.since.isoformat()}"')
        if self.until is not None:
            parts.append(f'time <= "{self.until.isoformat()}"')
        if self.camera:
            parts.append(f"camera = {_quoted(self.camera)}")
        return " AND ".join(filter(None, parts))


@dataclass(frozen=True)
class QueuePage:
    """A part of the queue."""

    items: list[Hit]
    total: int
    """Number of all frames that match. Set on the first page."""
    next_page_token: str
    """Token of the next page; empty on the last one."""
    threshold: float | None = None
    """Threshold of the frames' scores; None if the index is of another version. Set on the first page."""


def read_queue(client: Client, query: ReviewQuery, page_token: str = "") -> QueuePage:
    """Return a page of the queue.

    Raises:
        BlemishError: if a call fails.
    """
    try:
        threshold = None if page_token else _threshold(client, query)
        if query.order is Order.LEAST_CERTAIN and threshold is not None:
            total = client.count_items(query.model, where=query.condition)
            found = islice(_least_certain(client, query, threshold), _MAX_LEAST_CERTAIN)
            return QueuePage(list(found), total, "", threshold)
        page = client.items_page(
            query.model,
            where=query.condition,
            order_by=_ORDERS.get(query.order, _ORDERS[Order.NEWEST]),
            page_size=PAGE_SIZE,
            page_token=page_token,
        )
    except NotFound:  # the model has no index, so it has kept no frame
        return QueuePage([], 0, "")
    return QueuePage(list(page.items), page.total_size, page.next_page_token, threshold)


def read_classes(client: Client, model: str) -> list[str]:
    """Return the defect classes that people have confirmed, the most frequent one first."""
    try:
        found = islice(client.items(model, where="label = confirmed"), _MAX_CLASSES_READ)
        counts = Counter(item.label_class for item in found if item.label_class)
    except NotFound:
        return []
    return [name for name, _ in counts.most_common()]


def read_size(client: Client, item: str, model: str) -> tuple[int, int]:
    """Return width and height of an item's image in px, to which its regions refer."""
    image = client.item_image(item, model, read_limit=1)
    return image.width, image.height


def read_neighbours(client: Client, item: str, model: str) -> list[Hit]:
    """Return the most similar past images."""
    return list(client.search(item, model, _NEIGHBOURS))


def assign(client: Client, item: Hit, model: str, label: Label.ValueType, label_class: str) -> Hit:
    """Label an item that still has the label that was shown, and return it with the new one.

    Raises:
        Aborted: if another person labelled it meanwhile.
    """
    return client.label(
        item.item,
        model,
        label,
        label_class,
        expected=item.label or LABEL_NONE,
        expected_class=item.label_class,
    )


def is_unlabelled(item: Hit) -> bool:
    return item.label in (LABEL_UNSPECIFIED, LABEL_NONE)


@dataclass
class FrameCounts:
    """Numbers of frames."""

    frames: int = 0
    anomalous: int = 0
    labels: Counter[Label.ValueType] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    open: int = 0
    """Number of anomalous frames without a label."""

    def add(self, item: Hit) -> None:
        is_anomalous = item.verdict == VERDICT_ANOMALOUS
        self.frames += 1
        self.anomalous += is_anomalous
        if is_unlabelled(item):
            self.open += is_anomalous
        else:
            self.labels[item.label] += 1
        if item.label_class:
            self.classes[item.label_class] += 1


@dataclass
class Summary:
    """The frames of a shift, in all and by camera."""

    all: FrameCounts = field(default_factory=FrameCounts)
    cameras: dict[str, FrameCounts] = field(default_factory=dict)


def summarize(items: Iterable[Hit]) -> Summary:
    """Return the numbers of items."""
    summary = Summary()
    for item in items:
        summary.all.add(item)
        summary.cameras.setdefault(item.camera, FrameCounts()).add(item)
    summary.cameras = dict(sorted(summary.cameras.items()))
    return summary


def read_summary(client: Client, query: ReviewQuery) -> Summary:
    """Return the numbers of all kept frames of a period, whatever their verdict and label."""
    everything = ReviewQuery(query.model, query.since, query.camera, Shown.ALL, until=query.until)
    try:
        return summarize(client.items(query.model, where=everything.condition))
    except NotFound:
        return Summary()


def _threshold(client: Client, query: ReviewQuery) -> float | None:
    card = client.model(query.model)
    same = f"{query.condition} AND model = {_quoted(short(card.name))}"
    return card.calibration.threshold if client.count_items(query.model, where=same) else None


def _least_certain(client: Client, query: ReviewQuery, threshold: float) -> Iterator[Hit]:
    """Yield the frames by the distance of their scores from the threshold, the closest one first."""
    above = client.items(
        query.model, where=f"{query.condition} AND score > {threshold!r}", order_by="score"
    )
    below = client.items(
        query.model, where=f"{query.condition} AND score <= {threshold!r}", order_by="score desc"
    )
    return merge(above, below, key=lambda item: abs(item.score - threshold))


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
