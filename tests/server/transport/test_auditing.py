# SPDX-License-Identifier: Apache-2.0
"""Entries that calls leave in the audit log, as the interceptor makes them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NoReturn

import grpc
import pytest

from blemish.v1 import dataset_pb2, model_pb2
from blemish_core.platform.errors import FailedPrecondition
from blemish_server.audit.entry import AuditEntry, AuditFilter, Stage
from blemish_server.audit.log import AuditLog
from blemish_server.audit.recorder import AuditRecorder
from blemish_server.auth import access
from blemish_server.auth.access import Role
from blemish_server.auth.authenticator import Authenticator
from blemish_server.auth.limits import CallerLimiter
from blemish_server.metrics.server_metrics import ServerMetrics
from blemish_server.transport.auditing import CallAuditor
from blemish_server.transport.interceptor import CallInterceptor

PROMOTE, DELETE = "/blemish.v1.ModelService/PromoteModel", "/blemish.v1.ModelService/DeleteModel"
EXPORT, LIST = "/blemish.v1.ModelService/ExportModel", "/blemish.v1.ModelService/ListModels"
UPLOAD = "/blemish.v1.DatasetService/UploadImages"
REQUEST = model_pb2.PromoteModelRequest(name="models/t/versions/2")


class Aborted(Exception):
    """Raised in place of gRPC's AbortError."""


class Context:
    """A call's context that records its code."""

    code = grpc.StatusCode.OK

    async def abort(self, code: grpc.StatusCode, *details: Any) -> NoReturn:
        self.code = code
        raise Aborted

    def peer(self) -> str:
        return "ipv4:10.0.0.7:51234"

    def time_remaining(self) -> None:
        return None


class CallDetails(grpc.HandlerCallDetails):
    """The method of a call with a token and a request id."""

    def __init__(self, method: str, token: str) -> None:
        self.method = method
        self.invocation_metadata = (("authorization", f"Bearer {token}"), ("x-request-id", "r7"))


async def only(request: Any) -> AsyncIterator[Any]:
    yield request


class Audited:
    """An interceptor with an audit log, and callers."""

    def __init__(self, folder: Path) -> None:
        self.log = AuditLog(folder / "audit")
        self.recorder = AuditRecorder(self.log)
        self.callers = folder / "callers.json"
        self.tokens = {role: access.grant(self.callers, f"a-{role.word}", role) for role in Role}
        self.context = Context()
        self.with_callers = True

    async def handler(self, method: str, made: Any, token: str) -> Any:
        """Return the handler of a call whose original handler is ``made``."""
        interceptor = CallInterceptor(
            Authenticator(self.callers if self.with_callers else None),
            CallerLimiter(),
            CallAuditor(self.recorder),
            ServerMetrics(),
            lambda: False,
        )

        async def original(details: Any) -> Any:
            return made

        return await interceptor.intercept_service(original, CallDetails(method, token))

    async def call(self, method: str, behaviour: Callable[..., Any], request: Any, role: Role) -> Any:
        """Make a unary call, and return its response."""
        made: Any = grpc.unary_unary_rpc_method_handler(behaviour)
        handler = await self.handler(method, made, self.tokens[role])
        return await handler.stream_unary(only(request), self.context)

    async def entries(self) -> list[AuditEntry]:
        """Return all entries, the oldest first."""
        await self.recorder.close()
        entries, _ = self.log.page(AuditFilter(), 1000)
        return entries[::-1]


@pytest.fixture
def audited(tmp_path: Path) -> Audited:
    return Audited(tmp_path)


async def answer(request: object, context: object) -> model_pb2.PromoteModelResponse:
    return model_pb2.PromoteModelResponse()


async def test_change_has_an_entry_before_and_after_it(audited: Audited) -> None:
    seen: list[int] = []

    async def promote(request: object, context: object) -> model_pb2.PromoteModelResponse:
        entries, _ = audited.log.page(AuditFilter(), 10)
        seen.append(len(entries))
        return model_pb2.PromoteModelResponse()

    await audited.call(PROMOTE, promote, REQUEST, Role.OPERATOR)
    begun, ended = await audited.entries()
    assert seen == [1]
    assert (begun.stage, ended.stage) == (Stage.BEGUN, Stage.ENDED)
    assert begun.id == ended.id and begun.time == ended.time
    assert (ended.caller, ended.role, ended.action) == ("a-operator", "operator", "PromoteModel")
    assert (ended.peer, ended.request_id) == ("ipv4:10.0.0.7:51234", "r7")
    assert (ended.resources, ended.code) == (("models/t/versions/2",), 0)


async def test_caller_without_authentication_is_the_address(audited: Audited) -> None:
    audited.with_callers = False
    await audited.call(PROMOTE, answer, REQUEST, Role.OPERATOR)
    _, ended = await audited.entries()
    assert (ended.caller, ended.role) == ("10.0.0.7", "")


async def test_failed_change_has_its_status(audited: Audited) -> None:
    async def fail(request: object, context: object) -> NoReturn:
        raise FailedPrecondition("the version is in production")

    with pytest.raises(Aborted):
        await audited.call(DELETE, fail, model_pb2.DeleteModelRequest(name="models/t"), Role.OPERATOR)
    _, ended = await audited.entries()
    assert (ended.code, ended.message) == (9, "the version is in production")


async def test_details_of_a_bug_stay_in_the_servers_log(audited: Audited) -> None:
    async def fail(request: object, context: object) -> NoReturn:
        raise RuntimeError("secret")

    with pytest.raises(Aborted):
        await audited.call(PROMOTE, fail, REQUEST, Role.OPERATOR)
    _, ended = await audited.entries()
    assert ended.code == 13
    assert "secret" not in ended.message


async def test_cancelled_change_is_recorded(audited: Audited) -> None:
    begun = asyncio.Event()

    async def wait(request: object, context: object) -> None:
        begun.set()
        await asyncio.sleep(60)

    call = asyncio.create_task(audited.call(PROMOTE, wait, REQUEST, Role.OPERATOR))
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    _, ended = await audited.entries()
    assert (ended.code, ended.message) == (1, "the call was cancelled; the change may have been made")


async def test_change_is_rejected_while_the_log_cannot_be_written(audited: Audited) -> None:
    audited.log.folder.write_text("a file in the place of the folder")
    made: list[object] = []

    async def promote(request: object, context: object) -> None:
        made.append(request)

    with pytest.raises(Aborted):
        await audited.call(PROMOTE, promote, REQUEST, Role.OPERATOR)
    assert audited.context.code is grpc.StatusCode.UNAVAILABLE
    assert made == []


async def test_reads_are_not_recorded(audited: Audited) -> None:
    await audited.call(LIST, answer, model_pb2.ListModelsRequest(), Role.SERVICE)
    assert await audited.entries() == []


@pytest.mark.parametrize("method", [PROMOTE, LIST])
async def test_denied_call_is_recorded_with_its_caller(audited: Audited, method: str) -> None:
    made: Any = grpc.unary_unary_rpc_method_handler(answer)
    handler = await audited.handler(method, made, audited.tokens[Role.CAMERA])
    with pytest.raises(Aborted):
        await anext(handler.stream_stream(None, audited.context))
    (denied,) = await audited.entries()
    assert (denied.stage, denied.code, denied.caller, denied.role) == (Stage.ENDED, 7, "a-camera", "camera")
    assert denied.resources == ()


async def test_call_with_a_wrong_token_is_recorded_without_the_token(audited: Audited) -> None:
    made: Any = grpc.unary_unary_rpc_method_handler(answer)
    handler = await audited.handler(PROMOTE, made, "blemish_guessed")
    with pytest.raises(Aborted):
        await anext(handler.stream_stream(None, audited.context))
    (denied,) = await audited.entries()
    assert (denied.code, denied.caller, denied.role) == (16, "10.0.0.7", "")
    assert b"guessed" not in denied.to_line()


async def upload(requests: AsyncIterator[Any], context: object) -> dataset_pb2.UploadImagesResponse:
    sent = [request async for request in requests]
    return dataset_pb2.UploadImagesResponse(stored=sum(each.HasField("image") for each in sent))


async def messages(audited: Audited, *, revoked: bool = False) -> AsyncIterator[Any]:
    yield dataset_pb2.UploadImagesRequest(dataset="datasets/tile")
    for _ in range(2):
        yield dataset_pb2.UploadImagesRequest(image=dataset_pb2.ImageHeader(path="train/good/0.png"))
    if revoked:
        access.revoke(audited.callers, "a-operator")
        await asyncio.sleep(1.1)  # the authenticator reads the file once a second
    yield dataset_pb2.UploadImagesRequest(chunk=b"pixels")


async def test_upload_is_recorded_with_its_numbers(audited: Audited) -> None:
    made: Any = grpc.stream_unary_rpc_method_handler(upload)
    handler = await audited.handler(UPLOAD, made, audited.tokens[Role.OPERATOR])
    await handler.stream_unary(messages(audited), audited.context)
    begun, ended = await audited.entries()
    assert (begun.resources, begun.details) == (("datasets/tile",), {})
    assert ended.details == {"sent": "2", "stored": "2", "unchanged": "0"}
    assert b"pixels" not in ended.to_line()


async def test_upload_cut_short_by_a_revoked_token_has_one_end(audited: Audited) -> None:
    made: Any = grpc.stream_unary_rpc_method_handler(upload)
    handler = await audited.handler(UPLOAD, made, audited.tokens[Role.OPERATOR])
    with pytest.raises(Aborted):
        await handler.stream_unary(messages(audited, revoked=True), audited.context)
    begun, ended = await audited.entries()
    assert (begun.stage, ended.stage, ended.code) == (Stage.BEGUN, Stage.ENDED, 16)
    assert ended.details == {"sent": "2"}


async def test_export_that_its_client_ends_early_is_recorded(audited: Audited) -> None:
    async def export(request: object, context: object) -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"weights"

    made: Any = grpc.unary_stream_rpc_method_handler(export)
    handler = await audited.handler(EXPORT, made, audited.tokens[Role.OPERATOR])
    chunks = handler.stream_stream(only(model_pb2.ExportModelRequest(name="models/t")), audited.context)
    assert await anext(chunks) == b"weights"
    await chunks.aclose()
    begun, ended = await audited.entries()
    assert (begun.resources, ended.code) == (("models/t",), 1)
