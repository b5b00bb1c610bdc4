# SPDX-License-Identifier: Apache-2.0
"""Export of a version as a download, and import of one. The bytes pass through; no file is kept."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from blemish.v1.model_pb2 import ExportModelResponse
from blemish_client.aio import AsyncClient
from blemish_client.errors import (
    BlemishError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
)
from blemish_client.names import short
from blemish_console.data import models
from blemish_console.routes.files import FindSession, Handler
from blemish_console.session import BrowserSession

_IMPORTS = 2
"""Most imports at the same time. Each holds a thread and a few chunks."""
_SILENT_S = 60.0
"""Time after which an upload without a further byte ends."""
_STATUSES: tuple[tuple[type[BlemishError], int], ...] = (
    (Unauthenticated, 401),
    (PermissionDenied, 403),
    (NotFound, 404),
    (InvalidArgument, 400),
    (FailedPrecondition, 409),
    (ResourceExhausted, 413),
    (BlemishError, 502),
)


def export(find_session: FindSession) -> Handler:
    """Return the handler that sends a version as a file."""

    async def handle(request: Request) -> Response:
        if request.headers.get("sec-fetch-site") == "cross-site":
            return _refuse("pages of other sites cannot export models; open the console", 403)
        session = find_session(request)
        if session is None:
            return _refuse("the session has ended; sign in", 401)
        try:
            version = await session.call(models.read_version, request.path_params["version"])
            client = session.open_job_client()
            messages = aiter(client.export_stream(version.name))
            try:
                size_bytes = (await anext(messages)).size_bytes
            except BaseException:
                await client.close()
                raise
        except BlemishError as error:
            return _failed(error)
        file = f"{short(version.name).replace('/', '-')}.blemish"
        headers = {
            "content-length": str(size_bytes),
            "content-disposition": f'attachment; filename="{file}"',
            "cache-control": "no-store",
        }
        content = _content(client, messages)
        return StreamingResponse(content, media_type="application/octet-stream", headers=headers)

    return handle


async def _content(
    client: AsyncClient, messages: AsyncIterator[ExportModelResponse]
) -> AsyncIterator[bytes]:
    """Yield the bytes, and close the client at the end or once the browser has gone."""
    try:
        async for message in messages:
            yield message.chunk
    finally:
        await client.close()


def import_(find_session: FindSession) -> Handler:
    """Return the handler that passes an uploaded file on to the server, and answers with the version."""
    free = asyncio.Semaphore(_IMPORTS)

    async def handle(request: Request) -> Response:
        session = find_session(request)
        if session is None:
            return _refuse("the session has ended; sign in", 401)
        size_bytes = int(request.headers.get("content-length", "0"))
        limit = session.info.max_loaded_bytes
        if not size_bytes:
            return _refuse("the file is empty; choose one that was exported", 400)
        if limit and size_bytes > limit:
            return _refuse(
                f"the file has {size_bytes:,} bytes, the server takes at most {limit:,}; "
                "raise BLEMISH_MAX_LOADED_BYTES",
                413,
            )
        if free.locked():
            return _refuse(f"{_IMPORTS} imports are running; try again when one has ended", 503)
        async with free:
            return await _import(
                session, _BodyReader(request), size_bytes, request.query_params.get("as", "")
            )

    return handle


class _BodyReader:
    """The body of a request, taken by another thread as fast as it sends it on."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._is_over = False

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes as they arrive. Not for the thread of the event loop.

        Raises:
            ClientDisconnect: if the browser ends the upload.
            TimeoutError: if no further byte arrives.
        """
        while chunk := asyncio.run_coroutine_threadsafe(self._read(), self._loop).result():
            yield chunk

    async def discard(self) -> None:
        """Read the rest: a browser shows an answer only after it has sent everything."""
        with suppress(ClientDisconnect, TimeoutError):
            while await self._read():
                pass

    async def _read(self) -> bytes:
        """Return the next bytes, empty at the end. A call may still wait when the next one begins."""
        async with self._lock:
            while not self._is_over:
                message = await asyncio.wait_for(self._request.receive(), _SILENT_S)
                if message["type"] == "http.disconnect":
                    self._is_over = True
                    raise ClientDisconnect
                self._is_over = not message.get("more_body", False)
                if body := message.get("body", b""):
                    return bytes(body)
            return b""


async def _import(session: BrowserSession, body: _BodyReader, size_bytes: int, model_id: str) -> Response:
    try:
        version = await session.call(models.import_version, body.chunks(), size_bytes, model_id)
    except BlemishError as error:
        await body.discard()
        return _failed(error)
    except (ClientDisconnect, TimeoutError):
        return _refuse("the upload was cut; send the file again", 400)
    return PlainTextResponse(version.name)


def _failed(error: BlemishError) -> Response:
    return _refuse(error.message, next(status for kind, status in _STATUSES if isinstance(error, kind)))


def _refuse(message: str, status: int) -> Response:
    return PlainTextResponse(f"{message}\n", status)
