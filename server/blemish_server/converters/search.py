# SPDX-License-Identifier: Apache-2.0
"""Messages of SearchService."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from blemish.v1 import image_pb2
from blemish.v1 import search_pb2 as pb
from blemish_core.detectors.common.regions import region_mask
from blemish_core.imaging.decode import ImageLimits, read_mask
from blemish_core.imaging.image_input import Region
from blemish_core.platform.errors import InvalidImage, InvalidRequest
from blemish_core.platform.names import LATEST, dataset_id, dataset_name, item_id, item_name, item_prefix
from blemish_core.search import filter_language
from blemish_core.search.conditions import Condition, all_of, one_of
from blemish_core.search.fields import SEARCH_FIELDS
from blemish_core.search.item import Item, Label
from blemish_core.search.query import Query, Similar
from blemish_core.search.search_index import (
    MAX_HITS,
    MAX_OFFSET,
    MAX_RANKED,
    ItemOrder,
    OrderedAfter,
)
from blemish_server.converters.enums import EnumMapping
from blemish_server.converters.regions import regions_to_proto
from blemish_server.converters.values import check_count, timestamp_to_proto, verdict_to_proto
from blemish_server.search.region_search import MAX_LOCATED_HITS, LocatedHit, RegionMask
from blemish_server.transport.pagination import Page, not_a_token

LABELS: EnumMapping[Label, pb.Label.ValueType] = EnumMapping(
    {
        Label.CONFIRMED: pb.LABEL_CONFIRMED,
        Label.FALSE_ALARM: pb.LABEL_FALSE_ALARM,
        Label.GOOD: pb.LABEL_GOOD,
        Label.NONE: pb.LABEL_NONE,
    }
)

_DEFAULT_LIMIT = 10
_DEFAULT_GROUP_SIZE, _MAX_GROUP_SIZE = 3, 100
_MAX_LABEL_CLASS = 128
MAX_LISTED = 1000
"""Most values of each list of a search."""
_GROUP_FIELDS = ("dataset", "category", "class", "camera", "label", "label_class")


@dataclass(frozen=True)
class SearchParameters:
    """The validated content of a search request, except for its image or vector."""

    query: Query
    """Query without the embedding or the examples that it has yet to get."""
    filter_values: Mapping[str, Sequence[str]]
    """Values by payload key that the request's filter lists, and of which each is to exist."""
    limit: int
    offset: int
    region: RegionMask | None
    """Part of the image to search by, if not all of it."""
    page: Page

    @property
    def is_ranked_at_once(self) -> bool:
        """True if hits depend on the limit, so that they cannot be fetched in pages."""
        return self.query.group_by is not None or self.query.diversity is not None

    def next_page_token(self, hits: int) -> str:
        """Return the token of the page after one with this number of hits, empty if there is none."""
        following = self.offset + self.limit
        if self.is_ranked_at_once or hits < self.limit or following >= MAX_OFFSET:
            return ""
        return self.page.token(str(following))


def parse_search(request: pb.SearchRequest, limits: ImageLimits) -> SearchParameters:
    """Validate a search request.

    Args:
        request: the request.
        limits: limits on a mask.

    Raises:
        InvalidRequest: if a field is out of range, or fields exclude each other.
    """
    limit = request.limit or _DEFAULT_LIMIT
    if not 1 <= limit <= MAX_HITS:
        raise InvalidRequest(f"limit is {limit}; use 1 to {MAX_HITS}", field="limit")
    group_size = _parse_group_size(request, limit)
    diversity = _parse_diversity(request)
    for field in ("like", "unlike"):
        check_count(getattr(request, field), MAX_LISTED, field)
    for field in ("datasets", "categories", "classes"):
        check_count(getattr(request.filter, field), MAX_LISTED, f"filter.{field}")
    filter_values = {
        "dataset": [dataset_id(name, "filter.datasets") for name in request.filter.datasets],
        "category": list(request.filter.categories),
        "class_name": list(request.filter.classes),
    }
    filter_values = {key: values for key, values in filter_values.items() if values}
    listed = [one_of(key, values) for key, values in filter_values.items()]
    query = Query(
        item=item_id(request.item) if request.WhichOneof("query") == "item" else None,
        like=[item_id(name, "like") for name in request.like],
        unlike=[item_id(name, "unlike") for name in request.unlike],
        where=all_of([*listed, parse_where(request.where)]),
        exact=request.exact,
        diversity=diversity,
        group_by=SEARCH_FIELDS[request.group_by].key if request.group_by else None,
        group_size=group_size,
    )
    if request.WhichOneof("query") is None:
        query.validate()
    page = Page.parse(_fingerprint(request), 0, request.page_token)
    if page.after and (query.group_by or diversity is not None):
        raise InvalidRequest(
            "page_token cannot be combined with group_by or diversity; remove it", field="page_token"
        )
    offset = page.number()
    if offset + limit > MAX_RANKED:
        raise InvalidRequest(
            f"page_token is past the first {MAX_OFFSET} hits; narrow the search", field="page_token"
        )
    region = _parse_region(request, limits)
    return SearchParameters(query, filter_values, limit, offset, region, page)


def parse_where(text: str) -> Condition:
    """Return the condition of a ``where`` field.

    Raises:
        InvalidRequest: if the filter is malformed.
    """
    return filter_language.parse(text, SEARCH_FIELDS)


def check_item_name(name: str, field: str) -> None:
    """Reject what is not the full or short name of an item, or ``items/latest``.

    Raises:
        InvalidRequest: if it is not the name of an item.
    """
    if name != item_name(LATEST) and item_prefix(name) is None:
        item_id(name, field)


def parse_order(text: str) -> ItemOrder | None:
    """Return the order of a listing, None for that of names.

    Raises:
        InvalidRequest: if it is not a field that lists can be sorted by, with or without ``desc``.
    """
    if not text.strip():
        return None
    key, *direction = text.split()
    if key not in ("time", "score") or direction not in ([], ["asc"], ["desc"]):
        raise InvalidRequest(
            f"order_by is {text!r}; use time, time desc, score or score desc", field="order_by"
        )
    return ItemOrder("time" if key == "time" else "score", descending=direction == ["desc"])


def ordered_page(request: pb.ListItemsRequest, order: ItemOrder) -> tuple[Page, OrderedAfter | None]:
    """Return the page of an ordered listing, and the place after which it begins.

    Raises:
        InvalidRequest: if the size is out of range, or the token is not one of this listing.
    """
    page = Page.parse(f"items-{order.key}-{order.descending}", request.page_size, request.page_token)
    if not page.after:
        return page, None
    value, _, id = page.after.rpartition("|")
    try:
        last = UUID(id)
        if not value:
            return page, OrderedAfter(None, last)
        if order.key == "score":
            return page, OrderedAfter(float(value), last)
        return page, OrderedAfter(datetime.fromisoformat(value).astimezone(UTC), last)
    except (ValueError, OverflowError) as error:
        raise not_a_token() from error


def place_token(page: Page, after: OrderedAfter | None) -> str:
    """Return the token of the next page of an ordered listing, empty without one."""
    if after is None:
        return ""
    value = after.value.isoformat() if isinstance(after.value, datetime) else after.value
    return page.token(f"{'' if value is None else value}|{after.item}")


def parse_expected_label(request: pb.LabelItemRequest) -> tuple[Label, str] | None:
    """Return the label and the class that an item must have, None if any will do.

    Raises:
        InvalidRequest: if the label is unknown, or has a class although it is not a defect.
    """
    if request.expected_label == pb.LABEL_UNSPECIFIED and not request.expected_label_class:
        return None
    label = LABELS.parse(request.expected_label, "expected_label")
    if request.expected_label_class and label is not Label.CONFIRMED:
        raise InvalidRequest(
            f"expected_label_class is set, but expected_label is {label.name}; only a CONFIRMED defect "
            "has a class",
            field="expected_label_class",
        )
    return label, request.expected_label_class


def parse_label(request: pb.LabelItemRequest) -> tuple[Label, str]:
    """Return the label to set and the class of the defect.

    Raises:
        InvalidRequest: if the label is unknown, or has a class although it is not a defect.
    """
    label = LABELS.parse(request.label, "label")
    if request.label_class and label is not Label.CONFIRMED:
        raise InvalidRequest(
            f"label_class is set, but label is {label.name}; only a CONFIRMED defect has a class",
            field="label_class",
        )
    if len(request.label_class) > _MAX_LABEL_CLASS:
        raise InvalidRequest(
            f"label_class has {len(request.label_class)} characters; use at most {_MAX_LABEL_CLASS}",
            field="label_class",
        )
    return label, request.label_class


def item_to_proto(item: Item) -> pb.Hit:
    return pb.Hit(
        item=item_name(item.id),
        dataset=dataset_name(item.dataset) if item.dataset else "",
        category=item.category,
        path=item.path,
        original_path=item.original_path,
        class_name=item.class_name,
        score=item.score,
        p_value=item.p_value,
        verdict=verdict_to_proto(item.anomalous),
        camera=item.camera,
        name=item.name,
        time=timestamp_to_proto(item.time),
        label=LABELS.to_proto(item.label) if item.label else pb.LABEL_UNSPECIFIED,
        label_class=item.label_class,
        regions=regions_to_proto(item.regions),
    )


def hit_to_proto(similar: Similar, thumbnail: bytes) -> pb.Hit:
    message = item_to_proto(similar.item)
    message.similarity = similar.similarity
    message.group = similar.group
    message.thumbnail = thumbnail
    return message


def located_hit_to_proto(hit: LocatedHit, thumbnail: bytes) -> pb.Hit:
    message = hit_to_proto(hit.similar, thumbnail)
    if hit.match is not None:
        box, heat, (height, width) = hit.match.box, hit.match.heat, hit.shape
        message.match.CopyFrom(
            pb.Match(
                box=image_pb2.Region(left=box.left, top=box.top, width=box.width, height=box.height),
                similarity=hit.match.similarity,
                heat=pb.HeatMap(
                    width=heat.shape[1],
                    height=heat.shape[0],
                    values=np.rint(255 * heat).astype(np.uint8).tobytes(),
                ),
                width=width,
                height=height,
            )
        )
    return message


def _parse_group_size(request: pb.SearchRequest, limit: int) -> int:
    size = request.group_size or _DEFAULT_GROUP_SIZE
    if not 1 <= size <= _MAX_GROUP_SIZE:
        raise InvalidRequest(f"group_size is {size}; use 1 to {_MAX_GROUP_SIZE}", field="group_size")
    if request.group_by and request.group_by not in _GROUP_FIELDS:
        raise InvalidRequest(
            f"hits cannot be grouped by {request.group_by!r}; use {', '.join(_GROUP_FIELDS)}",
            field="group_by",
        )
    if request.group_by and limit * size > MAX_RANKED:
        raise InvalidRequest(
            f"{limit} groups of {size} are {limit * size} hits, but the maximum is {MAX_RANKED}; lower "
            "limit or group_size",
            field="group_size",
        )
    return size


def _parse_diversity(request: pb.SearchRequest) -> float | None:
    if not request.HasField("diversity"):
        return None
    if not 0 <= request.diversity <= 1:
        raise InvalidRequest(f"diversity is {request.diversity:g}; use 0 to 1", field="diversity")
    if request.group_by:
        raise InvalidRequest(
            "diversity cannot be combined with group_by; remove one of them", field="diversity"
        )
    return request.diversity


def _parse_region(request: pb.SearchRequest, limits: ImageLimits) -> RegionMask | None:
    """Return the region of the image to search by, if the request has one.

    Raises:
        InvalidRequest: if the request is not for one image, or has options that exclude a region.
    """
    kind = request.WhichOneof("part")
    if kind is None:
        return None
    if request.WhichOneof("query") not in ("image", "item"):
        raise InvalidRequest(f"{kind} needs an image; set image or item", field=kind)
    others = {
        "like": request.like,
        "unlike": request.unlike,
        "group_by": request.group_by,
        "diversity": request.HasField("diversity"),
        "page_token": request.page_token,
    }
    if excess := [name for name, is_set in others.items() if is_set]:
        raise InvalidRequest(
            f"{kind} cannot be combined with {', '.join(excess)}; remove one of them", field=excess[0]
        )
    if request.limit > MAX_LOCATED_HITS:
        raise InvalidRequest(
            f"limit is {request.limit}; with a {kind} use 1 to {MAX_LOCATED_HITS}", field="limit"
        )
    if kind == "region":
        box = request.region
        return partial(region_mask, region=Region(box.left, box.top, box.width, box.height))
    return partial(_parse_mask, request.mask, limits)


def _parse_mask(data: bytes, limits: ImageLimits, shape: tuple[int, int]) -> NDArray[np.bool_]:
    try:
        mask = read_mask(data, limits)
    except InvalidImage as error:
        raise InvalidRequest(f"mask: {error}", field="mask") from error
    if mask.shape != shape:
        raise InvalidRequest(
            f"the mask is {mask.shape[1]} x {mask.shape[0]} px, but the image is {shape[1]} x {shape[0]} "
            "px; send a mask of the image's size",
            field="mask",
        )
    return mask


def _fingerprint(request: pb.SearchRequest) -> str:
    """Return a digest of everything that the pages of one search have in common."""
    common = pb.SearchRequest()
    common.CopyFrom(request)
    for name in ("page_token", "limit", "include_thumbnails", "packed"):
        common.ClearField(name)
    return f"hits-{hashlib.sha256(common.SerializeToString(deterministic=True)).hexdigest()[:16]}"
