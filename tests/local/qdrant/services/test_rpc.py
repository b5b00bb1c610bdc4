# SPDX-License-Identifier: Apache-2.0
import asyncio
import errno
from typing import Any

import grpc
import pytest
from qdrant_client import grpc as pb
from structlog.testing import capture_logs

from blemish_local.qdrant import errors
from blemish_local.qdrant.services.rpc import STATUS, rpc, with_unsupported_methods


class CallAborted(Exception):
    """The end of a call that was aborted."""


class FakeCallContext:
    """A gRPC context that records the status of a call."""

    def __init__(self, left_s: float | None = None) -> None:
        self._left_s = left_s
        self.status: tuple[grpc.StatusCode, str] | None = None

    def time_remaining(self) -> float | None:
        return self._left_s

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.status = code, details
        raise CallAborted


@with_unsupported_methods
class CountService(pb.PointsServicer):
    """A servicer with one method, which counts its calls."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.calls = 0

    @rpc
    def Count(self, request: pb.CountPoints) -> pb.CountResponse:  # noqa: N802
        self.calls += 1
        if self._error:
            raise self._error
        return pb.CountResponse(result=pb.CountResult(count=3))


def call(service: CountService, context: Any, request: pb.CountPoints | None = None) -> pb.CountResponse:
    running: Any = service.Count(request or pb.CountPoints(), context)
    response: pb.CountResponse = asyncio.run(running)
    return response


def test_every_rejection_has_its_own_status() -> None:
    def tree(kind: type[errors.RequestRejected]) -> set[type[errors.RequestRejected]]:
        return {kind}.union(*map(tree, kind.__subclasses__()))

    assert tree(errors.RequestRejected) - {errors.RequestRejected} == set(STATUS)
    assert len(set(STATUS.values())) == len(STATUS)


def test_response_contains_its_duration() -> None:
    response = call(CountService(), FakeCallContext(left_s=5))
    assert response.result.count == 3
    assert response.time > 0


@pytest.mark.parametrize("kind", [kind for kind in STATUS if kind is not errors.NoSpace])
def test_rejection_becomes_a_status_with_its_sentence(kind: type[errors.RequestRejected]) -> None:
    context = FakeCallContext()
    with pytest.raises(CallAborted):
        call(CountService(kind("the reason")), context)
    assert context.status is not None
    code, details = context.status
    assert code is STATUS[kind]
    assert "the reason" in details


@pytest.mark.parametrize(
    "error", [errors.NoSpace(), OSError(errno.ENOSPC, "full"), RuntimeError("No space left on device")]
)
def test_full_disk_is_a_status_of_its_own(error: Exception) -> None:
    context = FakeCallContext()
    with pytest.raises(CallAborted):
        call(CountService(error), context)
    assert context.status is not None
    assert context.status[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "No space left on device; free some" in context.status[1]


def test_other_exception_is_logged_and_hidden_from_the_client() -> None:
    context = FakeCallContext()
    with capture_logs() as logs, pytest.raises(CallAborted):
        call(CountService(KeyError("secret")), context)
    assert context.status is not None
    assert context.status[0] is grpc.StatusCode.INTERNAL
    assert "secret" not in context.status[1]
    assert logs[0]["exc_info"]
    assert logs[0]["rpc"] == "CountService.Count"


def test_call_past_its_deadline_is_not_carried_out() -> None:
    service, context = CountService(), FakeCallContext(left_s=0)
    with pytest.raises(CallAborted):
        call(service, context)
    assert context.status is not None
    assert context.status[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert service.calls == 0


def test_field_that_is_not_served_is_rejected() -> None:
    service, context = CountService(), FakeCallContext()
    request = pb.CountPoints(shard_key_selector=pb.ShardKeySelector())
    with pytest.raises(CallAborted):
        call(service, context, request)
    assert context.status is not None
    assert context.status[0] is grpc.StatusCode.UNIMPLEMENTED
    assert "the field shard_key_selector of CountPoints" in context.status[1]
    assert service.calls == 0


def test_method_that_is_not_served_is_rejected_by_name() -> None:
    context: Any = FakeCallContext()
    method: Any = CountService().DeleteVectors
    with pytest.raises(CallAborted):
        asyncio.run(method(pb.DeletePointVectors(), context))
    code, details = context.status
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "the call DeleteVectors" in details
