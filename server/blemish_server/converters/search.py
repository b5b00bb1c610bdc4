# SPDX-License-Identifier: Apache-2.0
"""Messages of SearchService."""

import numpy as np

from blemish.v1 import image_pb2
from blemish.v1 import search_pb2 as pb
from blemish_core.platform.names import dataset_name, item_name
from blemish_core.search.item import Item, Label
from blemish_core.search.query import Similar
from blemish_server.converters.enums import EnumMapping
from blemish_server.converters.values import timestamp_to_proto, verdict_to_proto
from blemish_server.search.region_search import Placed

LABELS: EnumMapping[Label, pb.Label.ValueType] = EnumMapping(
    {
        Label.CONFIRMED: pb.LABEL_CONFIRMED,
        Label.FALSE_ALARM: pb.LABEL_FALSE_ALARM,
        Label.GOOD: pb.LABEL_GOOD,
        Label.NONE: pb.LABEL_NONE,
    }
)


def item_to_proto(item: Item) -> pb.Hit:
    return pb.Hit(
        item=item_name(item.id),
        dataset=dataset_name(item.dataset) if item.dataset else "",
        category=item.category,
        path=item.path,
        class_name=item.class_name,
        score=item.score,
        p_value=item.p_value,
        verdict=verdict_to_proto(item.anomalous),
        camera=item.camera,
        time=timestamp_to_proto(item.time),
        label=LABELS.to_proto(item.label) if item.label else pb.LABEL_UNSPECIFIED,
        label_class=item.label_class,
    )


def hit_to_proto(similar: Similar, thumbnail: bytes) -> pb.Hit:
    message = item_to_proto(similar.item)
    message.similarity = similar.similarity
    message.group = similar.group
    message.thumbnail = thumbnail
    return message


def located_hit_to_proto(hit: Placed, thumbnail: bytes) -> pb.Hit:
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
