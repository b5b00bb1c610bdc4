# SPDX-License-Identifier: Apache-2.0
from enum import IntEnum
from typing import Any

import pytest

import blemish_client
from blemish.v1 import image_pb2, inspection_pb2, job_pb2, search_pb2

CONTRACT = {
    "Consensus": inspection_pb2.Consensus,
    "JobPriority": job_pb2.JobPriority,
    "JobState": job_pb2.JobState,
    "Label": search_pb2.Label,
    "Priority": inspection_pb2.Priority,
    "Store": inspection_pb2.Store,
    "StreamPolicy": inspection_pb2.StreamPolicy,
    "Verdict": image_pb2.Verdict,
}


@pytest.mark.parametrize("name", CONTRACT)
def test_enum_has_the_names_and_numbers_of_the_contract(name: str) -> None:
    enum: type[IntEnum] = getattr(blemish_client, name)
    contract: Any = CONTRACT[name]
    prefix = contract.keys()[0].removesuffix("UNSPECIFIED")
    assert {prefix + member.name: member.value for member in enum} == dict(contract.items())


def test_members_equal_the_numbers_of_messages() -> None:
    inspection = inspection_pb2.Inspection(verdict=image_pb2.VERDICT_ANOMALOUS)
    assert inspection.verdict == blemish_client.Verdict.ANOMALOUS
    assert inspection.verdict != blemish_client.Verdict.NORMAL
