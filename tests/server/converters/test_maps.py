# SPDX-License-Identifier: Apache-2.0
"""Anomaly maps of large frames in responses of a limited size."""

from dataclasses import replace

import numpy as np
import pytest
from tests.support.inspections import make_inspection
from tritonclient.grpc import service_pb2

from blemish.v1 import inspection_pb2 as pb
from blemish_server.converters.inference import inspections_to_proto
from blemish_server.converters.inspection import inspection_to_proto
from blemish_server.converters.maps import map_pixels, shrunk_map
from blemish_server.scoring.inspection import Inspection


def with_map(rows: int, columns: int) -> Inspection:
    """Return an inspection whose map has one defect, in its last pixel."""
    inspection = make_inspection(2.0)
    scores = np.zeros((rows, columns), np.float32)
    scores[-1, -1] = 9
    return replace(inspection, prediction=replace(inspection.prediction, anomaly_map=scores))


@pytest.mark.parametrize(
    ("shape", "max_pixels", "expected"),
    [
        ((100, 100), 10_000, (100, 100)),
        ((100, 100), 9_999, (50, 50)),
        ((101, 99), 2_500, (34, 33)),
        ((64, 16_384), 300_000, (32, 8192)),
        ((3, 3), 1, (1, 1)),
    ],
)
def test_map_is_shrunk_by_a_whole_factor_until_it_fits(
    shape: tuple[int, int], max_pixels: int, expected: tuple[int, int]
) -> None:
    assert shrunk_map(np.zeros(shape, np.float32), max_pixels).shape == expected


def test_shrunk_map_keeps_the_highest_pixel_of_each_square() -> None:
    scores = np.arange(25, dtype=np.float32).reshape(5, 5)
    assert shrunk_map(scores, 9).tolist() == [[6, 8, 9], [16, 18, 19], [21, 23, 24]]


def test_map_of_a_large_frame_fits_into_a_response() -> None:
    message = inspection_to_proto(
        with_map(600, 800), pb.Outputs(anomaly_map=True), max_map_pixels=map_pixels(1 << 20)
    )
    assert (message.anomaly_map.height, message.anomaly_map.width) == (300, 400)
    scores = np.frombuffer(message.anomaly_map.values, "<f4")
    assert (len(scores), scores.max()) == (300 * 400, 9)
    assert message.ByteSize() < 1 << 20


def test_maps_of_several_images_share_the_limit() -> None:
    response = inspections_to_proto(
        service_pb2.ModelInferRequest(),
        [with_map(40, 40), with_map(40, 40)],
        ["anomaly_map"],
        max_map_pixels=2 * 400,
    )
    assert list(response.outputs[0].shape) == [2, 20, 20]
