# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from typing import Any

import pytest

from blemish.v1 import access_pb2, inspection_pb2, job_pb2, model_pb2, search_pb2
from blemish_core.platform.errors import InvalidRequest
from blemish_server.converters import inspection, jobs, models, search, server
from blemish_server.converters.enums import EnumMapping

MAPPINGS: Mapping[Any, EnumMapping[Any, Any]] = {
    job_pb2.JobState: jobs.STATES,
    job_pb2.JobPriority: jobs.PRIORITIES,
    inspection_pb2.Priority: inspection.PRIORITIES,
    inspection_pb2.Consensus: inspection.CONSENSUS,
    search_pb2.Label: search.LABELS,
    model_pb2.ThresholdRule: models.RULES,
    access_pb2.Role: server.ROLES,
}


@pytest.mark.parametrize("contract", MAPPINGS, ids=lambda contract: contract.DESCRIPTOR.name)
def test_every_number_of_the_contract_maps_to_one_member(contract: Any) -> None:
    mapping, numbers = MAPPINGS[contract], [number for number in contract.values() if number]
    assert [mapping.to_proto(mapping.parse(number, "field")) for number in numbers] == numbers


def test_rejected_number_names_the_field_and_its_choices() -> None:
    with pytest.raises(InvalidRequest) as error:
        search.LABELS.parse(search_pb2.LABEL_UNSPECIFIED, "label")
    assert str(error.value) == "label is 0; use CONFIRMED, FALSE_ALARM, GOOD or NONE"
    assert error.value.field == "label"
