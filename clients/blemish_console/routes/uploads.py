# SPDX-License-Identifier: Apache-2.0
"""Uploads of images by the page of a dataset: first the names of the files, then their contents in batches.

Both requests are a description in JSON, whose length is in the address, and contents one after the other.
The contents are written to a temporary file, so that the memory of the console does not grow with them.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any, BinaryIO

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from blemish_client.errors import BlemishError, InvalidArgument, NotFound, PermissionDenied, Unauthenticated
from blemish_console import texts
from blemish_console.data import uploads
from blemish_console.data.uploads import MalformedUpload, OnlyDefective, RefusedUpload
from blemish_console.routes.files import FindSession, Handler
from blemish_console.session import BrowserSession
from blemish_console.shell import describe

MAX_BODY_BYTES = 65_000_000
"""Largest request: an image with its description, or the names of all files."""
_MAX_RECEIVING = 8
"""Requests that are received at the same time. Others wait before their contents are read."""
_MAX_SENDING = 4
"""Batches that are sent to the server at the same time, so that threads remain for pages."""
_SILENT_S = 30.0
"""Time after which a browser that sends nothing is given up."""


class UploadRoutes:
    """The two requests of an upload."""

    def __init__(self, find_session: FindSession) -> None:
        self._find_session = find_session
        self._receiving = asyncio.Semaphore(_MAX_RECEIVING)
        self._sending = asyncio.Semaphore(_MAX_SENDING)

    def plan(self) -> Handler:
        """Return the handler that answers with the places of the files."""

        async def handle(session: BrowserSession, description: bytes, body: BinaryIO, size: int) -> Any:
            offer, contents = await asyncio.to_thread(uploads.parse_offer, description)
            if sum(length for _, length in contents) != size:
                raise MalformedUpload("the sizes of the contents do not add up")
            read = {path: body.read(length) for path, length in contents}
            limit = session.info.limits.max_image_bytes
            return (await session.call(uploads.plan_upload, offer, read, limit)).to_json()

        return self._handler(handle, uploads_most=MAX_BODY_BYTES)

    def store(self) -> Handler:
        """Return the handler that stores a batch of files."""

        async def handle(session: BrowserSession, description: bytes, body: BinaryIO, size: int) -> Any:
            batch = uploads.parse_batch(description, size)
            async with self._sending:
                done = await session.call(uploads.send_batch, batch, body)
            skipped = [(each.path, each.reason, each.expected) for each in done.skipped]
            return {
                "stored": done.stored,
                "unchanged": done.unchanged,
                "replaced": done.replaced,
                "left_out": skipped,
            }

        return self._handler(handle, uploads_most=uploads.MAX_HEADER_BYTES)

    def _handler(
        self,
        handle: Callable[[BrowserSession, bytes, BinaryIO, int], Awaitable[Any]],
        *,
        uploads_most: int,
    ) -> Handler:
        async def answer(request: Request) -> Response:
            session = self._find_session(request)
            if session is None:
                return JSONResponse({"error": texts.UPLOAD_SIGNED_OUT}, 401)
            try:
                length = _description_bytes(request, uploads_most)
                async with self._receiving:
                    with tempfile.TemporaryFile() as body:
                        size = await _receive(request, body)
                        description = body.read(length)
                        if len(description) < length:
                            raise MalformedUpload("the description is cut")
                        return JSONResponse(await handle(session, description, body, size - length))
            except (ClientDisconnect, TimeoutError):
                return JSONResponse({"error": texts.UPLOAD_CUT}, 408)
            except (MalformedUpload, RefusedUpload) as error:
                is_question = isinstance(error, OnlyDefective)
                return JSONResponse({"error": str(error), "only_defective": is_question}, 400)
            except BlemishError as error:
                return JSONResponse({"error": describe(error)}, _status(error))

        return answer


def _description_bytes(request: Request, most: int) -> int:
    text = request.query_params.get("description", "")
    if not text.isdecimal() or not 0 < int(text) <= most:
        raise MalformedUpload(f"the description has 1 to {most} bytes")
    return int(text)


async def _receive(request: Request, body: BinaryIO) -> int:
    """Write the body of a request to a file, which is then at its beginning; return the size in bytes."""
    size = 0
    parts = request.stream()
    while True:
        async with asyncio.timeout(_SILENT_S):
            part = await anext(parts, None)
        if part is None:
            break
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise MalformedUpload(f"a request has at most {MAX_BODY_BYTES} bytes")
        body.write(part)
    body.seek(0)
    return size


def _status(error: BlemishError) -> int:
    kinds = {Unauthenticated: 401, PermissionDenied: 403, NotFound: 404, InvalidArgument: 400}
    return next((status for kind, status in kinds.items() if isinstance(error, kind)), 502)
