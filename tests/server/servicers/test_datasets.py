# SPDX-License-Identifier: Apache-2.0
"""Images of datasets as the service returns them."""

import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from tests.support.kept_frames import frame_picture

from blemish.v1 import dataset_pb2 as pb
from blemish.v1.image_pb2 import RENDITION_MAP, RENDITION_ORIGINAL, RENDITION_THUMBNAIL, ImageFile
from blemish_core.datasets import DatasetStore, IncomingFile
from blemish_core.imaging.decode import ImageLimits
from blemish_core.jobs.removal import Removal
from blemish_core.platform.errors import Corrupt, InvalidRequest, NotFound
from blemish_server.servicers.datasets import DatasetServicer

LIMITS = ImageLimits()
CONTEXT: Any = None


@pytest.fixture
def datasets(tmp_path: Path) -> DatasetStore:
    store = DatasetStore(tmp_path / "datasets", LIMITS)
    store.create("tile", "")
    return store


@pytest.fixture
def servicer(datasets: DatasetStore) -> DatasetServicer:
    return DatasetServicer(datasets, cast(Removal, None), (), LIMITS)


async def image_of(servicer: DatasetServicer, path: str, **options: int) -> tuple[ImageFile, bytes]:
    request = pb.GetImageRequest(dataset="datasets/tile", path=path)
    for name, value in options.items():
        setattr(request, name, value)
    first, *rest = [answer async for answer in servicer.GetImage(request, CONTEXT)]
    return first.file, b"".join(answer.chunk for answer in rest)


async def test_image_is_returned_by_its_path_and_its_original_path(
    datasets: DatasetStore, servicer: DatasetServicer
) -> None:
    data, other = frame_picture(1), frame_picture(2, size=(900, 700), kind="BMP")
    datasets.add("tile", "train/good/0.png", data)
    datasets.put("tile", IncomingFile("test/crack/Teil 7 (neu).bmp", other))
    file, content = await image_of(servicer, "train/good/0.png")
    assert content == data
    assert (file.media_type, file.width, file.height) == ("image/png", 48, 32)
    assert file.sha256 == hashlib.sha256(data).digest()
    assert (await image_of(servicer, "test/crack/Teil 7 (neu).bmp"))[1] == other
    for rendition in (0, RENDITION_ORIGINAL):
        assert (
            await image_of(servicer, "train/good/0.png", rendition=rendition, read_offset=5, read_limit=9)
        )[1] == data[5:14]


async def test_mask_is_returned(datasets: DatasetStore, servicer: DatasetServicer) -> None:
    out = BytesIO()
    Image.new("L", (48, 32), 255).save(out, "PNG")
    datasets.add("tile", "test/crack/0.png", frame_picture(1))
    datasets.add("tile", "ground_truth/crack/0_mask.png", out.getvalue())
    assert (await image_of(servicer, "ground_truth/crack/0_mask.png"))[1] == out.getvalue()
    assert (await image_of(servicer, "test/crack/0.png"))[1] == frame_picture(1)


async def test_thumbnail_has_the_white_level_of_the_dataset(
    datasets: DatasetStore, servicer: DatasetServicer
) -> None:
    out = BytesIO()
    Image.fromarray(np.full((64, 64), 4000, np.uint16)).save(out, "PNG")
    datasets.add("tile", "train/good/0.png", out.getvalue())
    datasets.set_white_level("tile", 4095)
    _, content = await image_of(servicer, "train/good/0.png", rendition=RENDITION_THUMBNAIL, max_side=32)
    with Image.open(BytesIO(content)) as picture:
        assert picture.size == (32, 32)
        assert np.asarray(picture).mean() == pytest.approx(255 * 4000 / 4095, abs=3)


async def test_missing_and_damaged_images(
    datasets: DatasetStore, servicer: DatasetServicer, tmp_path: Path
) -> None:
    datasets.add("tile", "train/good/0.png", frame_picture(1))
    with pytest.raises(NotFound):
        await image_of(servicer, "train/good/1.png")
    for path in ("", "../x.png", "/etc/passwd", "train/good/../../dataset.json"):
        with pytest.raises(InvalidRequest):
            await image_of(servicer, path)
    with pytest.raises(InvalidRequest, match="no anomaly map; index the dataset") as rejected:
        await image_of(servicer, "train/good/0.png", rendition=RENDITION_MAP)
    assert rejected.value.field == "rendition"
    (tmp_path / "datasets/tile/train/good/0.png").write_bytes(b"damaged")
    with pytest.raises(Corrupt):
        await image_of(servicer, "train/good/0.png")
