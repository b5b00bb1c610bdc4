# SPDX-License-Identifier: Apache-2.0
"""SearchService: similarity search, listing and labelling of indexed images."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import grpc.aio
import numpy as np
import structlog

from blemish.v1 import search_pb2 as pb
from blemish.v1.inspection_pb2 import Outputs
from blemish.v1.search_pb2_grpc import SearchServiceServicer
from blemish_core.imaging.decode import ImageLimits, thumbnail
from blemish_core.imaging.image_input import ImageInput
from blemish_core.imaging.white_level import WhiteLevel
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import BlemishError, Conflict, InvalidRequest
from blemish_core.platform.names import ModelRef, item_name
from blemish_core.search.finder import Finder
from blemish_core.search.item import Item, Label
from blemish_core.search.item_images import ItemImages
from blemish_core.search.query import Query, Similar, Vector
from blemish_core.search.search_index import SearchIndex
from blemish_server.converters.images import (
    Rendition,
    anomaly_map_file,
    original_or_thumbnail,
    parse_selection,
)
from blemish_server.converters.inspection import inspection_to_proto, parse_image
from blemish_server.converters.search import (
    MAX_LISTED,
    SearchParameters,
    check_item_name,
    hit_to_proto,
    item_to_proto,
    located_hit_to_proto,
    ordered_page,
    parse_expected_label,
    parse_label,
    parse_order,
    parse_search,
    parse_where,
    place_token,
)
from blemish_server.converters.values import check_count
from blemish_server.scoring.inspection import ScoringRequest
from blemish_server.scoring.scorer import Scorer
from blemish_server.search.lookup_cache import LookupCache
from blemish_server.search.region_search import LocatedHit, RegionMask, RegionSearch, candidates
from blemish_server.transport.pagination import Page
from blemish_server.transport.request_context import queue_options

_PAGE = 64  # hits per call to Qdrant, so that the first are sent while the next are found
_DEFAULT_TIMEOUT_S = 10.0  # for calls without a deadline
_SERVING_TTL_S = 0.25  # as the model cache keeps the version that a model means
_DIMENSIONS_TTL_S = 60.0

log = structlog.get_logger(__name__)

_Context = grpc.aio.ServicerContext[Any, Any]
_AnyHit = TypeVar("_AnyHit", Similar, LocatedHit)


class SearchServicer(SearchServiceServicer):
    """SearchService on the indexes of the model versions."""

    def __init__(
        self,
        scorer: Scorer,
        models: ModelStore,
        index: SearchIndex,
        finder: Finder,
        images: ItemImages,
        limits: ImageLimits,
        *,
        on_label: Callable[[ModelRef], None],
    ) -> None:
        """Serve searches and labels; call ``on_label`` with a version whose labels have changed."""
        self._scorer = scorer
        self._models = models
        self._index = index
        self._finder = finder
        self._serving: LookupCache[ModelRef, ModelRef] = LookupCache(
            lambda ref: index.resolve(ref, models.resolve(ref)), _SERVING_TTL_S
        )
        self._labelling = asyncio.Lock()
        self._dimensions = LookupCache(index.dimensions, _DIMENSIONS_TTL_S)
        self._images = images
        self._region_search = RegionSearch(scorer, images)
        self._limits = limits
        self._on_label = on_label

    async def Search(  # noqa: N802 (the contract's name, here and below)
        self, request: pb.SearchRequest, context: _Context
    ) -> AsyncIterator[pb.SearchResponse]:
        ref = ModelRef.parse(request.model)
        if _names_items(request):
            request = await self._with_full_names(request, await self._serving.get(ref))
        search = parse_search(request, self._limits)
        # Every page and hit comes from this version's index, even if another one takes over meanwhile.
        version = await self._serving.get(ref)
        if search.filter_values:
            await asyncio.to_thread(self._index.check_values_exist, version, search.filter_values)
        if search.region is not None:
            async for response in self._search_region(request, search, search.region, version, context):
                yield response
            return
        query = search.query
        match request.WhichOneof("query"):
            case "image":
                image = parse_image(request.image, "image")
                await asyncio.to_thread(self._index.check_published, version)  # before the image is scored
                previewed = request.include_thumbnails
                inspection = await self._scorer.score(
                    ScoringRequest.of(image, version, queue_options(context), with_preview=previewed)
                )
                yield pb.SearchResponse(query=inspection_to_proto(inspection, Outputs(preview=previewed)))
                query = replace(query, vector=inspection.prediction.embedding)
            case "vector":
                query = replace(query, vector=await self._parse_vector(version, request.vector))
            case "labelled":
                like, unlike = await asyncio.to_thread(
                    self._index.labelled_examples, version, request.labelled
                )
                query = replace(query, like=(*query.like, *like), unlike=(*query.unlike, *unlike))
        found = 0
        async for hits in self._find(version, query, search, context):
            found += len(hits)
            async for response in self._responses(request, version, hits, hit_to_proto):
                yield response
        if token := search.next_page_token(found):
            yield pb.SearchResponse(page=pb.SearchPage(next_page_token=token))

    async def ListItems(  # noqa: N802
        self, request: pb.ListItemsRequest, context: _Context
    ) -> pb.ListItemsResponse:
        where, order = parse_where(request.where), parse_order(request.order_by)
        if order is None:
            page = Page.parse("items", request.page_size, request.page_token)
            start = page.item()
        else:
            page, place = ordered_page(request, order)
        version = await self._serving.refresh(ModelRef.parse(request.model))
        if order is None:
            items, following = await asyncio.to_thread(self._index.items, version, where, page.size, start)
            token = page.token(str(following)) if following else ""
        else:
            items, next_place = await asyncio.to_thread(
                self._index.ordered_items, version, where, order, page.size, place
            )
            token = place_token(page, next_place)
        total = 0 if request.page_token else await asyncio.to_thread(self._index.count, version, where)
        return pb.ListItemsResponse(
            items=map(item_to_proto, items), next_page_token=token, total_size=total
        )

    async def GetItem(  # noqa: N802
        self, request: pb.GetItemRequest, context: _Context
    ) -> pb.GetItemResponse:
        check_item_name(request.item, "item")
        version = await self._serving.refresh(ModelRef.parse(request.model))
        id = await asyncio.to_thread(self._index.resolve_item, version, request.item)
        return pb.GetItemResponse(
            item=item_to_proto(await asyncio.to_thread(self._index.item, version, id))
        )

    async def LabelItem(  # noqa: N802
        self, request: pb.LabelItemRequest, context: _Context
    ) -> pb.LabelItemResponse:
        check_item_name(request.item, "item")
        label, label_class = parse_label(request)
        expected = parse_expected_label(request)
        version = await self._serving.refresh(ModelRef.parse(request.model))
        id = await asyncio.to_thread(self._index.resolve_item, version, request.item)
        async with self._labelling:
            item = await asyncio.to_thread(self._index.item, version, id)
            # A repeated call finds the label that it has set.
            if expected and (item.label, item.label_class) not in (expected, (label, label_class)):
                raise Conflict(f"{item_name(id)} is {_described_label(item)} by now; read it again")
            await asyncio.to_thread(self._index.label, version, [id], label, label_class)
        self._on_label(version)
        log.info("item labelled", item=item_name(id), label=str(label), label_class=label_class)
        return pb.LabelItemResponse(
            item=item_to_proto(await asyncio.to_thread(self._index.item, version, id))
        )

    async def GetItemImage(  # noqa: N802
        self, request: pb.GetItemImageRequest, context: _Context
    ) -> AsyncIterator[pb.GetItemImageResponse]:
        check_item_name(request.item, "item")
        selection = parse_selection(request)
        version = await self._serving.get(ModelRef.parse(request.model))

        def read() -> bytes:
            id = self._index.resolve_item(version, request.item)
            return self._images.read(version, self._index.item(version, id))

        data = await asyncio.to_thread(read)
        if selection.rendition is Rendition.MAP:
            inspection = await self._scorer.score(
                ScoringRequest.of(ImageInput(data), version, queue_options(context))
            )
            outgoing = await asyncio.to_thread(
                anomaly_map_file,
                inspection.prediction.anomaly_map,
                inspection.calibration.pixel_threshold,
                inspection.shape,
            )
        else:
            level = await asyncio.to_thread(self._white_level, version)
            outgoing = await asyncio.to_thread(original_or_thumbnail, data, selection, self._limits, level)
        for message in outgoing.messages(pb.GetItemImageResponse):
            yield message

    async def _with_full_names(self, request: pb.SearchRequest, version: ModelRef) -> pb.SearchRequest:
        """Return a search request whose items have their full names."""

        def resolve(name: str, field: str) -> str:
            return item_name(self._index.resolve_item(version, name, field))

        def resolve_all() -> pb.SearchRequest:
            full = pb.SearchRequest()
            full.CopyFrom(request)
            if request.WhichOneof("query") == "item":
                full.item = resolve(request.item, "item")
            full.like[:] = [resolve(name, "like") for name in request.like]
            full.unlike[:] = [resolve(name, "unlike") for name in request.unlike]
            return full

        return await asyncio.to_thread(resolve_all)

    async def _search_region(
        self,
        request: pb.SearchRequest,
        search: SearchParameters,
        mask: RegionMask,
        version: ModelRef,
        context: _Context,
    ) -> AsyncIterator[pb.SearchResponse]:
        options, timeout_s = queue_options(context), _timeout_s(context)
        await asyncio.to_thread(self._index.check_published, version)  # before the image is scored
        sought = search.query.item
        if sought is not None:
            item = await asyncio.to_thread(self._index.item, version, sought)
            image = ImageInput(await asyncio.to_thread(self._images.read, version, item))
        else:
            image = parse_image(request.image, "image")
        previewed = sought is None and request.include_thumbnails
        inspection, region = await self._region_search.describe(
            image, mask, version, options, with_preview=previewed
        )
        if sought is None:
            yield pb.SearchResponse(query=inspection_to_proto(inspection, Outputs(preview=previewed)))
        query = replace(search.query, item=None, vector=region.embedding)
        most = candidates(search.limit)
        similar = await self._finder.search(version, query, most + 1, timeout_s=timeout_s)
        others = [each for each in similar if each.item.id != sought]
        ranking = await self._region_search.rank(region, others[:most], version, options)
        hits = ranking.hits[: search.limit]
        async for response in self._responses(request, version, hits, located_hit_to_proto):
            yield response
        if ranking.unseen:
            yield pb.SearchResponse(page=pb.SearchPage(unseen=ranking.unseen))

    async def _parse_vector(self, version: ModelRef, embedding: pb.Embedding) -> Vector:
        dimensions = await self._dimensions.get(version)
        if len(embedding.values) != dimensions:
            raise InvalidRequest(
                f"vector has {len(embedding.values)} values, but the embeddings of {version} have "
                f"{dimensions}; use one that this version computed",
                field="vector",
            )
        vector = np.asarray(embedding.values, dtype=np.float32)
        if not np.isfinite(vector).all() or not vector.any():
            raise InvalidRequest(
                "vector is zero or not finite; use an embedding that Score returned", field="vector"
            )
        return vector

    async def _find(
        self, version: ModelRef, query: Query, search: SearchParameters, context: _Context
    ) -> AsyncIterator[list[Similar]]:
        """Yield hits as Qdrant returns them, best first."""
        found = 0
        while found < search.limit:
            size = search.limit if search.is_ranked_at_once else min(_PAGE, search.limit - found)
            hits = await self._finder.search(
                version, query, size, offset=search.offset + found, timeout_s=_timeout_s(context)
            )
            yield hits
            found += size
            if search.is_ranked_at_once or len(hits) < size:
                return

    async def _responses(
        self,
        request: pb.SearchRequest,
        version: ModelRef,
        hits: Sequence[_AnyHit],
        to_proto: Callable[[_AnyHit, bytes], pb.Hit],
    ) -> AsyncIterator[pb.SearchResponse]:
        """Yield responses with one hit each, or packed if the request allows."""
        level = await asyncio.to_thread(self._white_level, version) if request.include_thumbnails else None
        for batch in _batched(hits, _PAGE):
            packed = pb.Hits()
            for hit in batch:
                image = b""
                if request.include_thumbnails:
                    image = await asyncio.to_thread(self._thumbnail, version, hit.item, level)
                if request.packed:
                    packed.hits.append(to_proto(hit, image))
                else:
                    yield pb.SearchResponse(hit=to_proto(hit, image))
            if request.packed:
                yield pb.SearchResponse(hits=packed)

    def _white_level(self, version: ModelRef) -> WhiteLevel | None:
        try:
            return self._models.manifest(version).white_level
        except BlemishError:
            return None  # the version was removed; its index remains for a moment

    def _thumbnail(self, version: ModelRef, item: Item, level: WhiteLevel | None) -> bytes:
        try:
            return thumbnail(self._images.read(version, item), limits=self._limits, level=level)
        except BlemishError:
            return b""  # the image was removed or replaced; the hit remains


def _names_items(request: pb.SearchRequest) -> bool:
    """Return whether a search names items, whose ids the index must find.

    Raises:
        InvalidRequest: if a name is malformed, or there are too many.
    """
    named = [("item", request.item)] if request.WhichOneof("query") == "item" else []
    for field in ("like", "unlike"):
        names = getattr(request, field)
        check_count(names, MAX_LISTED, field)
        named += [(field, name) for name in names]
    for field, name in named:
        check_item_name(name, field)
    return bool(named)


def _described_label(item: Item) -> str:
    """Return an item's label in words: labelled confirmed crack."""
    if item.label is Label.NONE:
        return "not labelled"
    name = item.label.value.lower().replace("_", "-")
    return " ".join(filter(None, ("labelled", name, item.label_class)))


def _timeout_s(context: _Context) -> float:
    left_s = context.time_remaining()
    return _DEFAULT_TIMEOUT_S if left_s is None else left_s


def _batched(hits: Sequence[_AnyHit], size: int) -> Iterator[Sequence[_AnyHit]]:
    return (hits[start : start + size] for start in range(0, len(hits), size))
