# SPDX-License-Identifier: Apache-2.0

import pytest

from blemish.v1 import job_pb2 as pb
from blemish_core.jobs.record import JobPriority, Limits
from blemish_core.platform.errors import InvalidRequest
from blemish_server.converters import convert


def test_what_is_not_set_has_its_default() -> None:
    assert convert.job_priority(pb.JOB_PRIORITY_UNSPECIFIED) is JobPriority.NORMAL
    assert convert.job_limits(pb.JobLimits()) == Limits()


def test_an_unknown_priority_is_refused() -> None:
    request = pb.CreateJobRequest()
    request.MergeFromString(b"\x28\x63")  # field 5, 99: as from a newer client
    with pytest.raises(InvalidRequest, match="99 is no job priority"):
        convert.job_priority(request.priority)


@pytest.mark.parametrize("seconds", [0, -1])
def test_no_time_at_all_is_refused(seconds: int) -> None:
    limits = pb.JobLimits()
    limits.max_run_time.FromSeconds(seconds)
    with pytest.raises(InvalidRequest, match="has to be above 0"):
        convert.job_limits(limits)


def test_negative_memory_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="cannot be negative"):
        convert.job_limits(pb.JobLimits(max_memory_bytes=-1))
