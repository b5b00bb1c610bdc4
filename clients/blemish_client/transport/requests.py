# SPDX-License-Identifier: Apache-2.0
"""The requests of both clients, from what their callers say."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TypedDict

from blemish.v1.image_pb2 import Image, Region
from blemish.v1.inspection_pb2 import Outputs, Priority, ScoreRequest, Store, StreamConfig, StreamPolicy
from blemish.v1.search_pb2 import SearchFilter, SearchRequest
from blemish_client.names import dataset_name, item_name, model_name

Query = bytes | str | Sequence[float]
"""An encoded image, the name of a stored item, or an embedding."""


def score_request(
    image: bytes | Image,
    model: str,
    *,
    anomaly_map: bool,
    embedding: bool,
    priority: Priority.ValueType,
    store: Store.ValueType,
    camera: str = "",
) -> ScoreRequest:
    return ScoreRequest(
        model=model_name(model),
        image=Image(encoded=image) if isinstance(image, bytes) else image,
        outputs=Outputs(anomaly_map=anomaly_map, embedding=embedding),
        priority=priority,
        store=store,
        camera=camera,
    )


def stream_config(
    model: str,
    *,
    policy: StreamPolicy.ValueType,
    anomaly_map: bool,
    embedding: bool,
    target_false_reject_rate: float | None,
    max_latency_s: float,
    priority: Priority.ValueType,
    store: Store.ValueType,
) -> StreamConfig:
    config = StreamConfig(
        model=model_name(model),
        outputs=Outputs(anomaly_map=anomaly_map, embedding=embedding),
        policy=policy,
        target_false_reject_rate=target_false_reject_rate,
        priority=priority,
        store=store,
    )
    if max_latency_s:
        config.max_latency.FromTimedelta(timedelta(seconds=max_latency_s))
    return config


class SearchOptions(TypedDict, total=False):
    """What a search may ask for beside its query; the contract says what each means."""

    datasets: Iterable[str]
    categories: Iterable[str]
    classes: Iterable[str]
    where: str
    """A condition, such as ``class = "crack" AND score > 12``."""
    like: Iterable[str]
    """Names of stored items."""
    unlike: Iterable[str]
    labelled: str
    """A class of defect, for a query of None: like what people confirmed to be of it."""
    group_by: str
    group_size: int
    diversity: float
    exact: bool
    page_token: str
    thumbnails: bool
    region: tuple[int, int, int, int]
    """Left, top, width and height in px of the query image: find what is there."""
    mask: bytes
    """Or what is under this, a PNG of the image's size."""


def search_request(query: Query | None, model: str, limit: int, options: SearchOptions) -> SearchRequest:
    request = SearchRequest(
        model=model_name(model),
        limit=limit,
        filter=SearchFilter(
            datasets=map(dataset_name, options.get("datasets", ())),
            categories=options.get("categories", ()),
            classes=options.get("classes", ()),
        ),
        include_thumbnails=options.get("thumbnails", False),
        where=options.get("where", ""),
        like=map(item_name, options.get("like", ())),
        unlike=map(item_name, options.get("unlike", ())),
        group_by=options.get("group_by", ""),
        group_size=options.get("group_size", 0),
        diversity=options.get("diversity"),
        exact=options.get("exact", False),
        page_token=options.get("page_token", ""),
        packed=True,
    )
    if region := options.get("region"):
        left, top, width, height = region
        request.region.CopyFrom(Region(left=left, top=top, width=width, height=height))
    elif mask := options.get("mask"):
        request.mask = mask
    if isinstance(query, str):
        request.item = item_name(query)
    elif isinstance(query, bytes):
        request.image.encoded = query
    elif query is not None:
        request.vector.values.extend(query)
    elif labelled := options.get("labelled"):
        request.labelled = labelled
    return request
