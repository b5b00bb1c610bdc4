# SPDX-License-Identifier: Apache-2.0
import asyncio
from typing import Any

import grpc
import pytest
from qdrant_client import grpc as pb
from structlog.testing import capture_logs

from blemish_local.qdrant import errors
from blemish_local.qdrant.services.rpc import STATUS, answered


class Aborted(Exception):
    pass


class FakeContext:
    """What a handler sees of its call."""

    def __init__(self, left_s: float | None = None) -> None:
        self._left_s = left_s
        self.status: tuple[grpc.StatusCode, str] | None = None

    def time_remaining(self) -> float | None:
        return self._left_s

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.status = code, details
        raise Aborted


class Service:
    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.calls = 0

    @answered
    def count(self, request: pb.CountPoints) -> pb.CountResponse:
        self.calls += 1
        if self._error:
            raise self._error
        return pb.CountResponse(result=pb.CountResult(count=3))


def ask(service: Service, context: Any, request: pb.CountPoints | None = None) -> pb.CountResponse:
    call: Any = service.count(request or pb.CountPoints(), context)
    answer: pb.CountResponse = asyncio.run(call)
    return answer


def test_every_refusal_has_its_status() -> None:
    def below(kind: type[errors.Refusal]) -> set[type[errors.Refusal]]:
        return {kind}.union(*map(below, kind.__subclasses__()))

    assert below(errors.Refusal) - {errors.Refusal} == set(STATUS)
    assert len(set(STATUS.values())) == len(STATUS)


def test_an_answer_says_how_long_it_took() -> None:
    answer = ask(Service(), FakeContext(left_s=5))
    assert answer.result.count == 3
    assert answer.time > 0


@pytest.mark.parametrize("kind", STATUS)
def test_a_refusal_is_a_status_with_its_sentence(kind: type[errors.Refusal]) -> None:
    context = FakeContext()
    with pytest.raises(Aborted):
        ask(Service(kind("the reason")), context)
    assert context.status is not None
    code, details = context.status
    assert code is STATUS[kind]
    assert "the reason" in details


def test_anything_else_is_logged_whole_and_answered_as_internal() -> None:
    context = FakeContext()
    with capture_logs() as logs, pytest.raises(Aborted):
        ask(Service(KeyError("secret")), context)
    assert context.status is not None
    assert context.status[0] is grpc.StatusCode.INTERNAL
    assert "secret" not in context.status[1]
    assert logs[0]["exc_info"]
    assert logs[0]["rpc"] == "Service.count"


def test_nothing_is_done_for_a_caller_who_has_left() -> None:
    service, context = Service(), FakeContext(left_s=0)
    with pytest.raises(Aborted):
        ask(service, context)
    assert context.status is not None
    assert context.status[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert service.calls == 0


def test_a_request_for_some_shards_only_is_refused() -> None:
    context = FakeContext()
    request = pb.CountPoints(shard_key_selector=pb.ShardKeySelector())
    with pytest.raises(Aborted):
        ask(Service(), context, request)
    assert context.status is not None
    assert context.status[0] is grpc.StatusCode.UNIMPLEMENTED
