# SPDX-License-Identifier: Apache-2.0
"""Access to the images of indexed items."""

from blemish_core.datasets import DatasetStore
from blemish_core.platform.names import ModelRef
from blemish_core.search.frame_store import FrameStore
from blemish_core.search.item import CAMERA, Item


class ItemImages:
    """The images of indexed items, stored in their dataset or among the kept frames."""

    def __init__(self, datasets: DatasetStore, frames: FrameStore) -> None:
        self._datasets = datasets
        self._frames = frames

    def read(self, version: ModelRef, item: Item) -> bytes:
        """Return the encoded image of an item in the index of ``version``.

        Raises:
            NotFound: if the image was removed or replaced.
            Corrupt: if the stored bytes are damaged.
        """
        if item.source == CAMERA:
            return self._frames.read(version.model, item.sha256)
        return self._datasets.read_path(item.dataset, item.path, item.sha256)
