# SPDX-License-Identifier: Apache-2.0
"""An index of kept frames in memory, with their images on disk, and the search service on it."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests.support.inspections import make_manifest
from tests.support.qdrant_twin import TwinPoints, in_memory_qdrant
from tests.support.scorers import FakeScorer

from blemish_core.datasets import DatasetStore
from blemish_core.imaging.decode import ImageLimits
from blemish_core.models.bundle import Manifest
from blemish_core.models.store import ModelStore
from blemish_core.platform.names import ModelRef
from blemish_core.search.finder import Finder
from blemish_core.search.frame_store import FrameStore
from blemish_core.search.item import CAMERA, Item, item_id
from blemish_core.search.item_images import ItemImages
from blemish_core.search.search_index import SearchIndex
from blemish_server.servicers.search import SearchServicer

VERSION = ModelRef("tile", 1)
NIGHT = datetime(2026, 12, 1, 22, tzinfo=UTC)


class OneVersion(ModelStore):
    """A store whose models all mean one version."""

    def resolve(self, ref: ModelRef) -> ModelRef:
        return VERSION

    def manifest(self, ref: ModelRef) -> Manifest:
        return make_manifest()


class CallContext:
    """The context of a call with a minute to its deadline."""

    def time_remaining(self) -> float:
        return 60.0

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


@dataclass
class KeptFrames:
    """Frames of two cameras, every third of them anomalous."""

    items: list[Item]
    contents: list[bytes]
    """Encoded images of the items."""
    index: SearchIndex
    frames: FrameStore
    datasets: DatasetStore
    scorer: FakeScorer
    servicer: SearchServicer
    context: Any


def frame_picture(number: int, *, size: tuple[int, int] = (48, 32), kind: str = "PNG") -> bytes:
    """Return the image of a frame; each number has another one."""
    noise = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(noise).save(out, kind)
    return out.getvalue()


def kept_frames(root: Path, count: int = 6) -> KeptFrames:
    """Return an index of frames whose images are stored below ``root``."""
    client, limits = in_memory_qdrant(), ImageLimits()
    index, frames = SearchIndex(client), FrameStore(root / "frames")
    datasets = DatasetStore(root / "datasets", limits)
    items, contents = [], []
    for number in range(count):
        data = frame_picture(number)
        sha256 = hashlib.sha256(data).hexdigest()
        frames.put(VERSION.model, sha256, data)
        contents.append(data)
        items.append(
            Item(
                item_id(VERSION, sha256),
                sha256=sha256,
                score=float(number),
                p_value=0.5,
                anomalous=number % 3 == 2,
                source=CAMERA,
                camera=("line-1", "line 2")[number % 2],
                time=NIGHT + timedelta(minutes=number),
            )
        )
    index.prepare(VERSION, 8)
    if items:
        index.put(VERSION, items, np.random.default_rng(1).normal(size=(count, 8)).astype(np.float32))
    index.publish(VERSION)
    scorer = FakeScorer(lambda data: 2.0)
    servicer = SearchServicer(
        scorer.as_scorer(),
        OneVersion(root / "models"),
        index,
        Finder(TwinPoints(client)),
        ItemImages(datasets, frames),
        limits,
        on_label=lambda version: None,
    )
    return KeptFrames(items, contents, index, frames, datasets, scorer, servicer, CallContext())
