# SPDX-License-Identifier: Apache-2.0
"""Images and reports, fetched from the server with the token of the session."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from blemish_client.client import Client
from blemish_client.errors import BlemishError, InvalidArgument, NotFound, Unauthenticated
from blemish_console.data import search
from blemish_console.session import BrowserSession

_MIN_SIDE_PX, _MAX_SIDE_PX = 16, 2048
_AGE_S = 3600
"""Time for which a browser keeps an image. An item's image never changes."""

FindSession = Callable[[Request], BrowserSession | None]
Handler = Callable[[Request], Awaitable[Response]]


def report(find_session: FindSession) -> Handler:
    """Return the handler of the report of a version's training."""

    async def handle(request: Request) -> Response:
        async def read(session: BrowserSession) -> Response:
            page = await session.call(Client.report, request.path_params["version"])
            return HTMLResponse(page, headers={"cache-control": "no-store"})

        return await _answer(find_session(request), read)

    return handle


def item_image(find_session: FindSession) -> Handler:
    """Return the handler of the image of an item, as a JPEG with at most ``side`` px."""

    async def handle(request: Request) -> Response:
        side = request.query_params.get("side", "")
        if not side.isdecimal() or not _MIN_SIDE_PX <= int(side) <= _MAX_SIDE_PX:
            return PlainTextResponse(f"side is not {_MIN_SIDE_PX} to {_MAX_SIDE_PX} px\n", 400)

        async def read(session: BrowserSession) -> Response:
            image = await session.call(
                Client.item_image,
                request.path_params["item"],
                request.path_params["model"],
                thumbnail=int(side),
            )
            headers = {"cache-control": f"private, max-age={_AGE_S}"}
            return Response(image.content, media_type="image/jpeg", headers=headers)

        return await _answer(find_session(request), read)

    return handle


def item_regions(find_session: FindSession) -> Handler:
    """Return the handler of the regions of an item, as SVG at the size of its image."""

    async def handle(request: Request) -> Response:
        async def read(session: BrowserSession) -> Response:
            svg = await session.call(
                search.regions_svg, request.path_params["item"], request.path_params["model"]
            )
            headers = {"cache-control": f"private, max-age={_AGE_S}"}
            return Response(svg, media_type="image/svg+xml", headers=headers)

        return await _answer(find_session(request), read)

    return handle


def dataset_image(find_session: FindSession) -> Handler:
    """Return the handler of an image or mask of a dataset, as a JPEG with at most ``side`` px.

    The address has the digest of the content, so that a replaced image has another address.
    """

    async def handle(request: Request) -> Response:
        side = request.query_params.get("side", "")
        if not side.isdecimal() or not _MIN_SIDE_PX <= int(side) <= _MAX_SIDE_PX:
            return PlainTextResponse(f"side is not {_MIN_SIDE_PX} to {_MAX_SIDE_PX} px\n", 400)

        async def read(session: BrowserSession) -> Response:
            image = await session.call(
                Client.dataset_image,
                request.path_params["dataset"],
                request.query_params.get("path", ""),
                thumbnail=int(side),
            )
            headers = {"cache-control": f"private, max-age={_AGE_S}"}
            return Response(image.content, media_type="image/jpeg", headers=headers)

        return await _answer(find_session(request), read)

    return handle


async def _answer(
    session: BrowserSession | None, read: Callable[[BrowserSession], Awaitable[Response]]
) -> Response:
    if session is None:
        return PlainTextResponse("the session has ended; sign in\n", 401)
    try:
        return await read(session)
    except Unauthenticated as error:
        return PlainTextResponse(f"{error.message}\n", 401)
    except NotFound as error:
        return PlainTextResponse(f"{error.message}\n", 404)
    except InvalidArgument as error:
        return PlainTextResponse(f"{error.message}\n", 400)
    except BlemishError as error:
        return PlainTextResponse(f"{error.message}\n", 502)
