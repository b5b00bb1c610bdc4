# SPDX-License-Identifier: Apache-2.0
"""The requests of both clients, from what their callers say."""

from collections.abc import Iterable
from datetime import timedelta

from blemish.v1.image_pb2 import Image
from blemish.v1.inspection_pb2 import Outputs, Priority, ScoreRequest, StreamConfig, StreamPolicy
from blemish.v1.search_pb2 import SearchFilter, SearchRequest
from blemish_client.names import dataset_name, item_name, model_name


def score_request(
    image: bytes | Image,
    model: str,
    *,
    anomaly_map: bool,
    embedding: bool,
    priority: Priority.ValueType,
) -> ScoreRequest:
    return ScoreRequest(
        model=model_name(model),
        image=Image(encoded=image) if isinstance(image, bytes) else image,
        outputs=Outputs(anomaly_map=anomaly_map, embedding=embedding),
        priority=priority,
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
) -> StreamConfig:
    config = StreamConfig(
        model=model_name(model),
        outputs=Outputs(anomaly_map=anomaly_map, embedding=embedding),
        policy=policy,
        target_false_reject_rate=target_false_reject_rate,
        priority=priority,
    )
    if max_latency_s:
        config.max_latency.FromTimedelta(timedelta(seconds=max_latency_s))
    return config


def search_request(
    query: bytes | str,
    model: str,
    limit: int,
    *,
    datasets: Iterable[str],
    categories: Iterable[str],
    classes: Iterable[str],
    thumbnails: bool,
) -> SearchRequest:
    request = SearchRequest(
        model=model_name(model),
        limit=limit,
        filter=SearchFilter(datasets=map(dataset_name, datasets), categories=categories, classes=classes),
        include_thumbnails=thumbnails,
    )
    if isinstance(query, str):
        request.item = item_name(query)
    else:
        request.image.encoded = query
    return request
