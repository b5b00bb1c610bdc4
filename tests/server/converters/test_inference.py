# SPDX-License-Identifier: Apache-2.0
"""Outputs of the Open Inference Protocol."""

import struct
from dataclasses import replace

import pytest
from tests.support.inspections import make_inspection
from tritonclient.grpc import service_pb2 as pb

from blemish_core.search.labelled_items import Consensus, DefectClass
from blemish_server.converters.inference import inspections_to_proto, naming_for, parse_outputs
from blemish_server.scoring.inspection import NamingPolicy

NAMED = DefectClass(Consensus.MAJORITY, "Öl [1]", 0.75, 5)
UNKNOWN = DefectClass(Consensus.DISTANT, neighbors=5)


def test_defect_class_is_one_text_per_image() -> None:
    inspections = [
        replace(make_inspection(2.0), defect_class=NAMED),
        replace(make_inspection(2.0), defect_class=UNKNOWN),
        make_inspection(0.5),
    ]
    names = ["defect_class", "defect_class_share"]
    response = inspections_to_proto(pb.ModelInferRequest(id="mine"), inspections, names)
    assert [(each.name, each.datatype, list(each.shape)) for each in response.outputs] == [
        ("defect_class", "BYTES", [3]),
        ("defect_class_share", "FP64", [3]),
    ]
    text = "Öl [1]".encode()
    texts, shares = response.raw_output_contents
    assert texts == struct.pack("<I", len(text)) + text + struct.pack("<II", 0, 0)
    assert struct.unpack("<3d", shares) == (0.75, 0.0, 0.0)


def test_defect_class_is_not_sent_unless_requested() -> None:
    assert parse_outputs(pb.ModelInferRequest()) == ["score", "p_value", "anomalous", "threshold"]


@pytest.mark.parametrize(
    ("outputs", "waits", "naming"),
    [
        (["score"], True, NamingPolicy.NONE),
        (["score", "defect_class"], True, NamingPolicy.WAIT),
        (["defect_class_share"], False, NamingPolicy.AT_ONCE),
    ],
)
def test_outputs_decide_whether_defects_are_named(
    outputs: list[str], waits: bool, naming: NamingPolicy
) -> None:
    assert naming_for(outputs, waits=waits) is naming
