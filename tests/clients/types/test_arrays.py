# SPDX-License-Identifier: Apache-2.0
import io

import numpy as np
from PIL import Image

from blemish.v1.image_pb2 import AnomalyMap
from blemish.v1.inspection_pb2 import Inspection
from blemish_client import anomaly_map, defect_mask


def test_map_is_an_array_of_rows() -> None:
    scores = np.arange(6, dtype="<f4").reshape(2, 3)
    inspection = Inspection(anomaly_map=AnomalyMap(width=3, height=2, values=scores.tobytes()))
    found = anomaly_map(inspection)
    assert found is not None
    assert found.dtype == np.float32
    assert np.array_equal(found, scores)
    found[0, 0] = 7  # it is writable


def test_mask_is_an_array_of_booleans() -> None:
    drawn = np.array([[0, 255, 255], [0, 0, 255]], np.uint8)
    png = io.BytesIO()
    Image.fromarray(drawn).save(png, "PNG")
    found = defect_mask(Inspection(mask=png.getvalue()))
    assert found is not None
    assert np.array_equal(found, drawn > 0)


def test_inspection_without_pictures_has_no_arrays() -> None:
    assert anomaly_map(Inspection()) is None
    assert defect_mask(Inspection()) is None
