# SPDX-License-Identifier: Apache-2.0
"""SearchService: find past images like a query, list them, note what people say of them."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import grpc.aio
import numpy as np
import structlog
from numpy.typing import NDArray
from qdrant_client import models as qm

from blemish.v1 import search_pb2 as pb
from blemish.v1.inspection_pb2 import Outputs
from blemish.v1.search_pb2_grpc import SearchServiceServicer
from blemish_core.detectors.common.regions import region_mask
from blemish_core.imaging.decode import ImageLimits, read_mask, thumbnail
from blemish_core.imaging.image_input import ImageInput, Region
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import BlemishError, InvalidImage, InvalidRequest
from blemish_core.platform.names import ModelRef, dataset_id, item_id
from blemish_core.search import filter_language, qdrant_filter
from blemish_core.search.fields import SEARCH_FIELDS
from blemish_core.search.finder import Finder
from blemish_core.search.item import Item, Label
from blemish_core.search.item_images import ItemImages
from blemish_core.search.query import Filter, Query, Similar, Vector
from blemish_core.search.search_index import DEEPEST, MOST_HITS, MOST_RANKED, SearchIndex
from blemish_server.converters.inspection import inspection_to_proto, parse_image
from blemish_server.converters.search import LABELS, hit_to_proto, item_to_proto, located_hit_to_proto
from blemish_server.scoring.scorer import Scorer
from blemish_server.search.region_search import MOST_HITS as MOST_PLACED
from blemish_server.search.region_search import Part, Placed, Spots, candidates
from blemish_server.transport.pagination import Page
from blemish_server.transport.remembered import Remembered
from blemish_server.transport.request_context import queue_options

_LIMIT = 10
_GROUP_SIZE, _MOST_IN_GROUP = 3, 100
_PAGE = 64  # hits asked of Qdrant at once: the first leave while the next are looked for
_LONGEST_CLASS = 128
_QDRANT_S = 10.0  # where the call has no deadline
_DIMENSIONS_S = 60.0
_GROUPS = ("dataset", "category", "class", "camera", "label", "label_class")

log = structlog.get_logger(__name__)

_Context = grpc.aio.ServicerContext[Any, Any]
_Found = TypeVar("_Found", Similar, Placed)


class SearchServicer(SearchServiceServicer):
    def __init__(
        self,
        inspector: Scorer,
        models: ModelStore,
        index: SearchIndex,
        finder: Finder,
        images: ItemImages,
        limits: ImageLimits,
    ) -> None:
        self._inspector = inspector
        self._index = index
        self._finder = finder
        # The fixed version whose index answers for a name.
        self._serving_version: Remembered[ModelRef, ModelRef] = Remembered(
            lambda ref: index.serving(ref, models.resolve(ref))
        )
        # The length of a version's embeddings, which does not change.
        self._dimensions = Remembered(index.dimensions, for_s=_DIMENSIONS_S)
        self._images = images
        self._spots = Spots(inspector, images)
        self._limits = limits

    async def Search(  # noqa: N802 (the contract's name, here and below)
        self, request: pb.SearchRequest, context: _Context
    ) -> AsyncIterator[pb.SearchResponse]:
        asked = _Asked.read(request, self._limits)
        # The index that answers now, also if another takes over meanwhile.
        version = await self._serving_version.recent(ModelRef.parse(request.model))
        if asked.part is not None:
            async for answer in self._by_part(request, asked, asked.part, version, context):
                yield answer
            return
        query = asked.query
        match request.WhichOneof("query"):
            case "image":
                picture = parse_image(request.image, "image")
                await asyncio.to_thread(self._index.count, version)  # no index: say so before working
                done = await self._inspector.inspect(picture, version, queue_options(context))
                yield pb.SearchResponse(query=inspection_to_proto(done, Outputs()))
                query = replace(query, vector=done.outcome.embedding)
            case "vector":
                query = replace(query, vector=await self._vector(version, request.vector))
            case "labelled":
                like, unlike = await asyncio.to_thread(self._index.labelled, version, request.labelled)
                query = replace(query, like=(*query.like, *like), unlike=(*query.unlike, *unlike))
        async for found in self._found(version, query, asked, context):
            async for answer in self._answers(request, version, found, hit_to_proto):
                yield answer
        if asked.next_token:
            yield pb.SearchResponse(page=pb.SearchPage(next_page_token=asked.next_token))

    async def ListItems(  # noqa: N802
        self, request: pb.ListItemsRequest, context: _Context
    ) -> pb.ListItemsResponse:
        page = Page.parse("items", request.page_size, request.page_token)
        where = _condition(request.where)
        after = UUID(page.after) if page.after else None
        version = await self._serving_version.now(ModelRef.parse(request.model))
        found, following = await asyncio.to_thread(self._index.items, version, where, page.size, after)
        return pb.ListItemsResponse(
            items=[item_to_proto(item) for item in found],
            next_page_token=page.token(str(following)) if following else "",
        )

    async def LabelItem(  # noqa: N802
        self, request: pb.LabelItemRequest, context: _Context
    ) -> pb.LabelItemResponse:
        id, label = item_id(request.item), LABELS.parse(request.label, "label")
        if request.label_class and label is not Label.CONFIRMED:
            raise InvalidRequest("only a CONFIRMED defect has a class; leave it out", field="label_class")
        if len(request.label_class) > _LONGEST_CLASS:
            raise InvalidRequest(
                f"label_class has {len(request.label_class)} characters, but may have {_LONGEST_CLASS}",
                field="label_class",
            )
        version = await self._serving_version.now(ModelRef.parse(request.model))
        await asyncio.to_thread(self._index.item, version, id)
        await asyncio.to_thread(self._index.label, version, [id], label, request.label_class)
        log.info("item labelled", item=request.item, label=str(label), label_class=request.label_class)
        return pb.LabelItemResponse(
            item=item_to_proto(await asyncio.to_thread(self._index.item, version, id))
        )

    async def _by_part(
        self, request: pb.SearchRequest, asked: "_Asked", part: Part, version: ModelRef, context: _Context
    ) -> AsyncIterator[pb.SearchResponse]:
        terms, left_s = queue_options(context), context.time_remaining()
        await asyncio.to_thread(self._index.count, version)  # no index: say so before working
        if asked.query.item is not None:
            item = await asyncio.to_thread(self._index.item, version, asked.query.item)
            picture = ImageInput(await asyncio.to_thread(self._images.read, version, item))
        else:
            picture = parse_image(request.image, "image")
        done, spot = await self._spots.find(picture, part, version, terms)
        if asked.query.item is None:
            yield pb.SearchResponse(query=inspection_to_proto(done, Outputs()))
        found = await self._finder.search(
            version,
            replace(asked.query, item=None, vector=spot.embedding),
            candidates(asked.limit) + 1,
            timeout_s=_QDRANT_S if left_s is None else left_s,
        )
        others = [similar for similar in found if similar.item.id != asked.query.item]
        ranked = await self._spots.ranked(spot, others[: candidates(asked.limit)], version, terms)
        async for answer in self._answers(
            request, version, ranked.placed[: asked.limit], located_hit_to_proto
        ):
            yield answer
        if ranked.unseen:
            yield pb.SearchResponse(page=pb.SearchPage(unseen=ranked.unseen))

    async def _vector(self, version: ModelRef, given: pb.Embedding) -> Vector:
        vector = np.asarray(given.values, dtype=np.float32)
        wanted = await self._dimensions.recent(version)
        if vector.shape != (wanted,):
            raise InvalidRequest(
                f"the vector has {len(vector)} values, but the index of {version} has embeddings of "
                f"{wanted}: take one that this version made",
                field="vector",
            )
        if not np.isfinite(vector).all() or not vector.any():
            raise InvalidRequest("the vector is zero or not finite: it has no direction", field="vector")
        return vector

    async def _found(
        self, version: ModelRef, query: Query, asked: "_Asked", context: _Context
    ) -> AsyncIterator[list[Similar]]:
        """Hits as Qdrant finds them, best first."""
        sent = 0
        while sent < asked.limit:
            size = asked.limit if asked.is_whole else min(_PAGE, asked.limit - sent)
            left_s = context.time_remaining()
            found = await self._finder.search(
                version,
                query,
                size,
                offset=asked.offset + sent,
                timeout_s=_QDRANT_S if left_s is None else left_s,
            )
            yield found
            sent += size
            if asked.is_whole or len(found) < size:
                asked.has_more = False
                return

    async def _answers(
        self,
        request: pb.SearchRequest,
        version: ModelRef,
        found: Sequence[_Found],
        hit_of: Callable[[_Found, bytes], pb.Hit],
    ) -> AsyncIterator[pb.SearchResponse]:
        """Hits as the request wants them: each by itself, or packed."""
        for pack in _batched(found, _PAGE):
            hits = pb.Hits()
            for one in pack:
                small = b""
                if request.include_thumbnails:
                    small = await asyncio.to_thread(self._thumbnail, version, one.item)
                if request.packed:
                    hits.hits.append(hit_of(one, small))
                else:
                    yield pb.SearchResponse(hit=hit_of(one, small))
            if request.packed:
                yield pb.SearchResponse(hits=hits)

    def _thumbnail(self, version: ModelRef, item: Item) -> bytes:
        try:
            return thumbnail(self._images.read(version, item), limits=self._limits)
        except BlemishError:
            return b""  # the image is gone or was replaced; the hit is still one


class _Asked:
    """A search request, checked before anything is done for it."""

    def __init__(self, query: Query, limit: int, offset: int, fingerprint: str, part: Part | None) -> None:
        self.query = query
        self.part = part
        self.limit = limit
        self.offset = offset
        self.has_more = True
        self._page = Page(fingerprint, "", limit)

    @property
    def is_whole(self) -> bool:
        """Whether it is answered as a whole: what comes where depends on all that is asked for."""
        return self.query.group_by is not None or self.query.diversity is not None

    @property
    def next_token(self) -> str:
        """Where the next page begins; empty if there is none."""
        following = self.offset + self.limit
        more = self.has_more and not self.is_whole and following < DEEPEST
        return self._page.token(str(following)) if more else ""

    @classmethod
    def read(cls, request: pb.SearchRequest, limits: ImageLimits) -> "_Asked":
        """Check a request; ``limits`` are those of a mask.

        Raises:
            InvalidRequest: if it is not sound.
        """
        limit = request.limit or _LIMIT
        if not 1 <= limit <= MOST_HITS:
            raise InvalidRequest(f"limit is {limit}, but must be 1 to {MOST_HITS}", field="limit")
        size = request.group_size or _GROUP_SIZE
        if not 1 <= size <= _MOST_IN_GROUP:
            raise InvalidRequest(
                f"group_size is {size}, but must be 1 to {_MOST_IN_GROUP}", field="group_size"
            )
        if request.group_by and request.group_by not in _GROUPS:
            raise InvalidRequest(
                f"hits cannot be grouped by {request.group_by!r}, but by {', '.join(_GROUPS)}",
                field="group_by",
            )
        if request.group_by and limit * size > MOST_RANKED:
            raise InvalidRequest(
                f"{limit} groups of {size} are {limit * size} hits, but {MOST_RANKED} are the most; lower "
                "limit or group_size",
                field="group_size",
            )
        diversity = request.diversity if request.HasField("diversity") else None
        if diversity is not None and not 0 <= diversity <= 1:
            raise InvalidRequest(f"diversity is {diversity:g}, but must be 0 to 1", field="diversity")
        if diversity is not None and request.group_by:
            raise InvalidRequest(
                "diversity does not go together with group_by; leave one out", field="diversity"
            )
        query = Query(
            item=item_id(request.item) if request.WhichOneof("query") == "item" else None,
            like=[item_id(name, "like") for name in request.like],
            unlike=[item_id(name, "unlike") for name in request.unlike],
            where=Filter(
                datasets=[dataset_id(name, "filter.datasets") for name in request.filter.datasets],
                categories=list(request.filter.categories),
                classes=list(request.filter.classes),
                condition=_condition(request.where),
            ),
            exact=request.exact,
            diversity=diversity,
            group_by=SEARCH_FIELDS[request.group_by].key if request.group_by else None,
            group_size=size,
        )
        if request.WhichOneof("query") is None:
            query.qdrant(limit)  # asks for nothing, unless there is something to be like
        fingerprint = _fingerprint(request)
        page = Page.parse(fingerprint, 0, request.page_token)
        if page.after and (query.group_by or diversity is not None):
            raise InvalidRequest("there are no pages with group_by or diversity", field="page_token")
        offset = int(page.after) if page.after.isdecimal() else 0
        if offset + limit > MOST_RANKED:
            raise InvalidRequest(f"pages lead {DEEPEST} hits deep", field="page_token")
        return cls(query, limit, offset, fingerprint, _part(request, limits))


def _part(request: pb.SearchRequest, limits: ImageLimits) -> Part | None:
    """The part of the query that is meant, if it is one.

    Raises:
        InvalidRequest: if it does not go together with the rest.
    """
    kind = request.WhichOneof("part")
    if kind is None:
        return None
    if request.WhichOneof("query") not in ("image", "item"):
        raise InvalidRequest(f"a {kind} is of an image: set image or item", field=kind)
    others = {
        "like": request.like,
        "unlike": request.unlike,
        "group_by": request.group_by,
        "diversity": request.HasField("diversity"),
        "page_token": request.page_token,
    }
    if excess := [name for name, given in others.items() if given]:
        raise InvalidRequest(f"{kind} does not go together with {', '.join(excess)}", field=excess[0])
    if request.limit > MOST_PLACED:
        raise InvalidRequest(
            f"limit is {request.limit}, but with a {kind} must be 1 to {MOST_PLACED}", field="limit"
        )
    if kind == "region":
        box = request.region
        return partial(region_mask, region=Region(box.left, box.top, box.width, box.height))
    return partial(_mask, request.mask, limits)


def _mask(data: bytes, limits: ImageLimits, shape: tuple[int, int]) -> NDArray[np.bool_]:
    try:
        mask = read_mask(data, limits)
    except InvalidImage as error:
        raise InvalidRequest(f"mask: {error}", field="mask") from error
    if mask.shape != shape:
        raise InvalidRequest(
            f"the mask is {mask.shape[1]} x {mask.shape[0]} px, but the image is {shape[1]} x {shape[0]}: "
            "send one of its size",
            field="mask",
        )
    return mask


def _batched(found: Sequence[_Found], size: int) -> Iterator[Sequence[_Found]]:
    return (found[start : start + size] for start in range(0, len(found), size))


def _fingerprint(request: pb.SearchRequest) -> str:
    """What pages of one request share."""
    same = pb.SearchRequest()
    same.CopyFrom(request)
    for free in ("page_token", "limit", "include_thumbnails", "packed"):
        same.ClearField(free)
    return f"hits-{hashlib.sha256(same.SerializeToString(deterministic=True)).hexdigest()[:16]}"


def _condition(text: str) -> qm.Filter | None:
    return qdrant_filter.to_filter(filter_language.parse(text, SEARCH_FIELDS))
