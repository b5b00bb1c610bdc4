# SPDX-License-Identifier: Apache-2.0
"""Requests about indexed items, datasets and the audit log, for both clients."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TypeAlias, TypedDict

from blemish.v1.audit_pb2 import AUDIT_STAGE_ENDED, AuditEntry, ListAuditEntriesRequest
from blemish.v1.dataset_pb2 import AddItemsRequest, GetImageRequest, ImportDatasetRequest, ListImagesRequest
from blemish.v1.image_pb2 import RENDITION_MAP, RENDITION_ORIGINAL, RENDITION_THUMBNAIL
from blemish.v1.search_pb2 import GetItemImageRequest, GetItemRequest, LabelItemRequest, ListItemsRequest
from blemish.v1.search_pb2 import Label as LabelMessage
from blemish_client.names import dataset_name, item_name, model_name
from blemish_client.transport.options import reject_unknown
from blemish_client.transport.upload import FolderOptions, folder_conversion
from blemish_client.types.enums import Label

AnyLabel: TypeAlias = Label | LabelMessage.ValueType

ITEMS_PER_PAGE = 1000
_IMAGES_PER_PAGE = 1000
_ITEMS_PER_ADDITION = 100
_ENTRIES_PER_PAGE = 500


class ImageOptions(TypedDict, total=False):
    """The options of stored images."""

    thumbnail: int
    """Longer side of a JPEG in px, 16 to 2048. Default: 0, the original."""
    read_offset: int
    """First byte of the original. Default: 0."""
    read_limit: int
    """Most bytes of the original. Default: 0, all."""


def items_request(
    model: str, where: str, order_by: str, page_size: int, page_token: str
) -> ListItemsRequest:
    return ListItemsRequest(
        model=model_name(model), where=where, order_by=order_by, page_size=page_size, page_token=page_token
    )


def item_request(item: str, model: str) -> GetItemRequest:
    return GetItemRequest(model=model_name(model), item=item_name(item))


def item_image_request(item: str, model: str, options: ImageOptions) -> GetItemImageRequest:
    reject_unknown(options, ImageOptions.__optional_keys__)
    thumbnail = options.get("thumbnail", 0)
    return GetItemImageRequest(
        model=model_name(model),
        item=item_name(item),
        rendition=RENDITION_THUMBNAIL if thumbnail else RENDITION_ORIGINAL,
        max_side=thumbnail,
        read_offset=options.get("read_offset", 0),
        read_limit=options.get("read_limit", 0),
    )


def item_map_request(item: str, model: str) -> GetItemImageRequest:
    return GetItemImageRequest(model=model_name(model), item=item_name(item), rendition=RENDITION_MAP)


def label_request(
    item: str,
    model: str,
    label: AnyLabel,
    label_class: str,
    expected: AnyLabel,
    expected_class: str,
) -> LabelItemRequest:
    return LabelItemRequest(
        model=model_name(model),
        item=item_name(item),
        label=LabelMessage.ValueType(label),
        label_class=label_class,
        expected_label=LabelMessage.ValueType(expected),
        expected_label_class=expected_class,
    )


def dataset_image_request(dataset: str, path: str, options: ImageOptions) -> GetImageRequest:
    reject_unknown(options, ImageOptions.__optional_keys__)
    thumbnail = options.get("thumbnail", 0)
    return GetImageRequest(
        dataset=dataset_name(dataset),
        path=path,
        rendition=RENDITION_THUMBNAIL if thumbnail else RENDITION_ORIGINAL,
        max_side=thumbnail,
        read_offset=options.get("read_offset", 0),
        read_limit=options.get("read_limit", 0),
    )


def images_request(dataset: str, under: str) -> ListImagesRequest:
    return ListImagesRequest(dataset=dataset_name(dataset), page_size=_IMAGES_PER_PAGE, path_prefix=under)


class AdditionOptions(TypedDict, total=False):
    """The options of ``add_items``."""

    split: str
    """``test`` or ``train``, which takes only good images. Default: test."""
    default_class: str
    """Class of confirmed defects that have none. Default: defect."""
    unlabelled_class: str
    """Class of items without a label. Default: they are left out."""
    author: str
    """Person who adds them. Default: the caller."""


def addition_requests(
    dataset: str, model: str, items: Iterable[str], options: AdditionOptions
) -> Iterator[AddItemsRequest]:
    """Yield requests that add the items, some with each."""
    reject_unknown(options, AdditionOptions.__optional_keys__)
    names = list(map(item_name, items))
    for start in range(0, len(names), _ITEMS_PER_ADDITION):
        yield AddItemsRequest(
            dataset=dataset_name(dataset),
            model=model_name(model),
            items=names[start : start + _ITEMS_PER_ADDITION],
            split=options.get("split", "test"),
            default_class=options.get("default_class", ""),
            unlabelled_class=options.get("unlabelled_class", ""),
            author=options.get("author", ""),
        )


def import_request(
    dataset_id: str,
    path: str,
    options: FolderOptions,
    *,
    category: str,
    replace: bool,
    white_level: int,
) -> ImportDatasetRequest:
    conversion = folder_conversion(options, category)
    return ImportDatasetRequest(
        dataset_id=dataset_id,
        category=category,
        path=path,
        replace=replace,
        good=sorted(conversion.good),
        only_defective=conversion.only_defective,
        layout=conversion.layout,
        bad=sorted(conversion.bad),
        masks=sorted(conversion.masks),
        white_level=white_level,
    )


class AuditOptions(TypedDict, total=False):
    """The conditions of ``audit_entries``, all of which an entry meets."""

    caller: str
    """Name of the caller."""
    action: str
    """Name of the RPC, such as PromoteModel."""
    resource: str
    """Resource, or one that contains it."""
    start: datetime | None
    """Earliest begin of a call, with a time zone."""
    end: datetime | None
    """Time before which a call began, with a time zone."""
    only_failed: bool
    """True for only the calls that ended with an error."""


def audit_request(conditions: AuditOptions) -> ListAuditEntriesRequest:
    reject_unknown(conditions, AuditOptions.__optional_keys__)
    request = ListAuditEntriesRequest(
        page_size=_ENTRIES_PER_PAGE,
        caller=conditions.get("caller", ""),
        action=conditions.get("action", ""),
        resource=conditions.get("resource", ""),
        only_failed=conditions.get("only_failed", False),
    )
    if (start := conditions.get("start")) is not None:
        request.start_time.FromDatetime(start)
    if (end := conditions.get("end")) is not None:
        request.end_time.FromDatetime(end)
    return request


class AuditedCalls:
    """A filter that lets one entry of each call through, from entries in which the latest come first."""

    def __init__(self) -> None:
        self._ended: set[str] = set()

    def is_first(self, entry: AuditEntry) -> bool:
        """Return true unless the ending of the call has been seen before."""
        if entry.stage == AUDIT_STAGE_ENDED:
            self._ended.add(entry.id)
            return True
        if entry.id in self._ended:
            self._ended.remove(entry.id)
            return False
        return True
