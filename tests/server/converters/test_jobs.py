# SPDX-License-Identifier: Apache-2.0

import pytest

from blemish.v1 import job_pb2 as pb
from blemish_core.jobs.record import JobPriority, Limits
from blemish_core.platform.errors import InvalidRequest
from blemish_server.converters.jobs import parse_limits, parse_priority


def test_unset_priority_and_limits_have_their_defaults() -> None:
    assert parse_priority(pb.JOB_PRIORITY_UNSPECIFIED) is JobPriority.NORMAL
    assert parse_limits(pb.JobLimits()) == Limits()


def test_unknown_priority_of_a_newer_client_is_rejected() -> None:
    request = pb.CreateJobRequest()
    request.MergeFromString(b"\x28\x63")  # field 5, value 99
    with pytest.raises(InvalidRequest, match="priority is 99; use HIGH, NORMAL or LOW"):
        parse_priority(request.priority)


@pytest.mark.parametrize("seconds", [0, -1])
def test_run_time_that_is_not_positive_is_rejected(seconds: int) -> None:
    limits = pb.JobLimits()
    limits.max_run_time.FromSeconds(seconds)
    with pytest.raises(InvalidRequest, match=f"max_run_time is {seconds} s; set it above 0"):
        parse_limits(limits)


def test_negative_memory_limit_is_rejected() -> None:
    with pytest.raises(InvalidRequest, match="max_memory_bytes is -1; set it above 0"):
        parse_limits(pb.JobLimits(max_memory_bytes=-1))
