# SPDX-License-Identifier: Apache-2.0

import json
from dataclasses import replace

import pytest
from tests.support.inspections import make_calibration, make_inspection
from tests.support.regions import make_region, make_region_message
from tritonclient.grpc import service_pb2

from blemish.v1 import inspection_pb2, model_pb2
from blemish_core.localization.settings import RegionSettings
from blemish_core.models.calibration_log import ThresholdRule
from blemish_core.platform.errors import InvalidRequest
from blemish_server.auth.access import Caller, Role
from blemish_server.converters.inference import inspections_to_proto, parse_outputs
from blemish_server.converters.inspection import inspection_to_proto
from blemish_server.converters.models import calibration_to_proto, parse_calibration_change
from blemish_server.converters.regions import parse_region_settings, regions_to_proto


def test_region_has_the_figures_of_the_core() -> None:
    assert regions_to_proto([make_region(2, 3, 6, 5)]) == [make_region_message(2, 3, 6, 5)]


def test_region_has_a_size_in_mm_if_the_width_of_a_pixel_is_known() -> None:
    (plain,) = regions_to_proto([make_region()])
    (scaled,) = regions_to_proto([make_region(2, 4, 6, 5)], 0.5)
    assert not plain.HasField("size")
    size = scaled.size
    assert (size.left_mm, size.top_mm, size.width_mm, size.height_mm) == (1.0, 2.0, 3.0, 2.5)
    assert (size.area_mm2, size.length_mm, size.peak_x_mm, size.peak_y_mm) == (7.5, 3.0, 1.25, 2.25)


def test_inspection_contains_regions_and_mask_only_if_requested() -> None:
    inspection = replace(make_inspection(2.0), regions=(make_region(),), mask=b"png")
    nothing = inspection_to_proto(inspection, inspection_pb2.Outputs())
    assert (len(nothing.regions), nothing.mask) == (0, b"")
    everything = inspection_to_proto(inspection, inspection_pb2.Outputs(regions=True, mask=True))
    assert list(everything.regions) == [make_region_message()]
    assert everything.mask == b"png"


def test_inference_protocol_sends_regions_as_json_if_named() -> None:
    calibration = make_calibration().with_regions(RegionSettings(mm_per_px=0.5))
    found = replace(make_inspection(2.0, calibration=calibration), regions=(make_region(),))
    normal = replace(make_inspection(0.0), regions=())
    request = service_pb2.ModelInferRequest()
    assert "regions" not in parse_outputs(request)
    request.outputs.add(name="regions")
    names = parse_outputs(request)
    response = inspections_to_proto(request, [found, normal], names)
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("regions", "BYTES", [2])
    packed = response.raw_output_contents[0]
    length = int.from_bytes(packed[:4], "little")
    (region,) = json.loads(packed[4 : 4 + length])
    assert region["box"] == {"left": 2, "top": 3, "width": 6, "height": 5}
    assert region["size"]["width_mm"] == 3.0
    assert packed[4 + length :] == (2).to_bytes(4, "little") + b"[]"


def test_change_of_regions_needs_no_rule() -> None:
    request = model_pb2.UpdateCalibrationRequest(
        author="ann", regions=model_pb2.RegionSettings(smallest_area=20, mm_per_px=0.1)
    )
    change = parse_calibration_change(request, Caller("", Role.OPERATOR))
    assert (change.rule, change.regions) == (None, RegionSettings(smallest_area=20.0, mm_per_px=0.1))
    request.threshold = 3.0
    assert parse_calibration_change(request, Caller("", Role.OPERATOR)).rule is ThresholdRule.FIXED


def test_request_without_any_change_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="contains no change"):
        parse_calibration_change(
            model_pb2.UpdateCalibrationRequest(author="ann"), Caller("", Role.OPERATOR)
        )


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"regions\.max_regions"):
        parse_region_settings(model_pb2.RegionSettings(max_regions=65))
    with pytest.raises(InvalidRequest, match=r"regions\.mm_per_px"):
        parse_region_settings(model_pb2.RegionSettings(mm_per_px=0.0))


def test_card_shows_settings_of_regions_and_the_pixel_threshold_in_force() -> None:
    calibration = make_calibration().with_regions(RegionSettings(pixel_threshold=4.0, max_regions=3))
    revision = replace(make_inspection().revision, calibration=calibration)
    message = calibration_to_proto(revision, None)
    assert message.pixel_threshold == 4.0
    assert message.regions == model_pb2.RegionSettings(pixel_threshold=4.0, max_regions=3)
