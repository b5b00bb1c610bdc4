# SPDX-License-Identifier: Apache-2.0
"""The composition root of the console: sessions, pages, files and the web server around them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from nicegui import app as nicegui_app
from nicegui import ui
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp

from blemish.v1.access_pb2 import ROLE_CAMERA, ROLE_SERVICE
from blemish_client.errors import BlemishError
from blemish_console import texts
from blemish_console.pages import compare, data, dataset_image, line, models, review, search, system, train
from blemish_console.routes import archives, files
from blemish_console.routes.sign_in import SignIn
from blemish_console.routes.uploads import UploadRoutes
from blemish_console.security import IMPORT_PATH, Guard, OriginPolicy
from blemish_console.session import BrowserSession, Server, SessionStore
from blemish_console.shell import NavigationEntry, View, frame, sign_in_path

_STOP_WITHIN_S = 3
_ANSWER_WITHIN_S = 20.0
"""Time for the first answer of the server and the connection of a browser, longer than that of a call."""
_MAX_MESSAGE_BYTES = 1_000_000
"""Largest message of a browser's socket."""

Build = Callable[[View], Awaitable[None]]

PAGES: tuple[tuple[NavigationEntry, Build], ...] = (
    (NavigationEntry("/line", texts.LINE, "videocam", ROLE_SERVICE), line.build),
    (NavigationEntry("/review", texts.REVIEW, "fact_check", ROLE_SERVICE), review.build),
    (
        NavigationEntry("/review/summary", texts.SUMMARY, "summarize", ROLE_SERVICE, is_listed=False),
        review.build_summary,
    ),
    (NavigationEntry("/search", texts.SEARCH, "image_search", ROLE_SERVICE), search.build),
    (NavigationEntry("/data", texts.DATA, "photo_library", ROLE_SERVICE), data.build),
    (
        NavigationEntry("/data/image", texts.DATA_IMAGE, "image", ROLE_SERVICE, is_listed=False),
        dataset_image.build,
    ),
    (NavigationEntry("/train", texts.TRAIN, "model_training", ROLE_SERVICE), train.build),
    (NavigationEntry("/models", texts.MODELS, "category", ROLE_SERVICE), models.build),
    (
        NavigationEntry("/compare", texts.COMPARE, "compare_arrows", ROLE_SERVICE, is_listed=False),
        compare.build,
    ),
    (NavigationEntry("/system", texts.SYSTEM, "monitor_heart", ROLE_CAMERA), system.build),
)
"""All pages, in the order of the navigation. The first one that a caller may open is the start page."""


@dataclass(frozen=True)
class ConsoleOptions:
    """The options of one console."""

    server: Server
    host: str = "127.0.0.1"
    port: int = 8080
    root_path: str = ""
    """Path below which a reverse proxy serves the console, such as /blemish."""
    origins: tuple[str, ...] = ()
    """Origins under which browsers open it, besides this machine's names and addresses."""
    certificate: Path | None = None
    """PEM file with the certificate chain of the console itself."""
    key: Path | None = None
    session_hours: float = 12.0


@dataclass
class Console:
    """The pages and the sessions of the browsers that see them. A process has one."""

    options: ConsoleOptions
    store: SessionStore = field(init=False)
    cookie: str = field(init=False)

    def __post_init__(self) -> None:
        self.store = SessionStore(self.options.server, 3600 * self.options.session_hours)
        # Browsers send cookies to all ports of a host, so the name has the port.
        self.cookie = f"blemish_console_{self.options.port}"

    def find_session(self, cookie: str) -> BrowserSession | None:
        """Return the session for the value of the cookie, or that of all browsers of an open server."""
        return self.store.find(cookie) or self.store.shared

    def create_app(self) -> ASGIApp:
        """Return the ASGI application, with all pages.

        Raises:
            ValueError: if an origin is malformed.
        """
        sign_in = SignIn(self.store, self.cookie)
        web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        web.add_route("/sign-in", sign_in.show, ["GET"])
        web.add_route("/sign-in", sign_in.sign_in, ["POST"])
        web.add_route("/sign-out", sign_in.sign_out, ["POST"])
        web.add_route("/reports/{version:path}", files.report(self._session_of), ["GET"])
        web.add_route("/images/{model:path}/items/{item}", files.item_image(self._session_of), ["GET"])
        regions = files.item_regions(self._session_of)
        web.add_route("/images/{model:path}/items/{item}/regions.svg", regions, ["GET"])
        web.add_route("/data/images/{dataset}", files.dataset_image(self._session_of), ["GET"])
        upload = UploadRoutes(self._session_of)
        web.add_route("/data/upload/plan", upload.plan(), ["POST"])
        web.add_route("/data/upload", upload.store(), ["POST"])
        web.add_route("/exports/{version:path}", archives.export(self._session_of), ["GET"])
        web.add_route(IMPORT_PATH, archives.import_(self._session_of), ["POST"])
        for entry, build in PAGES:
            self._add_page(entry, build, sign_in)
        self._add_start_page(sign_in)
        # Every message comes by a socket, whose origin a browser always states.
        nicegui_app.config.socket_io_js_transports = ["websocket"]
        ui.run_with(web, title=texts.TITLE, dark=None, show_welcome_message=False, language="en-US")
        return Guard(
            web,
            OriginPolicy(self.options.origins),
            self.find_session,
            cookie=self.cookie,
            root_path=self.options.root_path,
        )

    def _session_of(self, request: Request) -> BrowserSession | None:
        return self.find_session(request.cookies.get(self.cookie, ""))

    async def _enter(self, request: Request, sign_in: SignIn) -> BrowserSession | Response:
        """Return the session of a browser, or the answer that it gets in place of a page."""
        try:
            session = self._session_of(request) or await self.store.open()
        except (BlemishError, OSError) as error:
            return sign_in.server_away(request, error)
        if session is not None:
            return session
        path = request.url.path.removeprefix(self.options.root_path) or "/"
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(self.options.root_path + sign_in_path(path + query), 303)

    def _add_page(self, entry: NavigationEntry, build: Build, sign_in: SignIn) -> None:
        entries = tuple(entry for entry, _ in PAGES)

        title = f"{entry.title} · {texts.TITLE}"

        @ui.page(entry.path, title=title, response_timeout=_ANSWER_WITHIN_S)
        async def show(request: Request) -> Response | None:
            session = await self._enter(request, sign_in)
            if isinstance(session, Response):
                return session
            query = dict(request.query_params)
            view = View(session, self.options.server.target, query, self.options.root_path)
            if frame(view, entries, entry, request):
                # The header is shown at once; the page fills as the server answers.
                await ui.context.client.connected(_ANSWER_WITHIN_S)
                await build(view)
            return None

    def _add_start_page(self, sign_in: SignIn) -> None:
        @ui.page("/", response_timeout=_ANSWER_WITHIN_S)
        async def show(request: Request) -> Response:
            session = await self._enter(request, sign_in)
            if isinstance(session, Response):
                return session
            allowed = [entry.path for entry, _ in PAGES if session.may(entry.role)]
            path = allowed[0] if allowed else PAGES[0][0].path
            return RedirectResponse(self.options.root_path + path, 303)


async def serve(options: ConsoleOptions, on_ready: Callable[[str], None]) -> bool:
    """Serve the console until the process is asked to stop. Return False if it could not start.

    Args:
        options: its options.
        on_ready: receives the address of the console once it accepts connections.
    """
    console = Console(options)
    config = uvicorn.Config(
        console.create_app(),
        host=options.host,
        port=options.port,
        log_config=None,
        access_log=False,
        server_header=False,
        ws_max_size=_MAX_MESSAGE_BYTES,
        ssl_certfile=options.certificate,
        ssl_keyfile=options.key,
        timeout_graceful_shutdown=_STOP_WITHIN_S,
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    try:
        while not server.started and not running.done():
            await asyncio.sleep(0.02)
        if server.started:
            port = server.servers[0].sockets[0].getsockname()[1]
            host = f"[{options.host}]" if ":" in options.host else options.host
            scheme = "https" if options.certificate else "http"
            on_ready(f"{scheme}://{host}:{port}{options.root_path or '/'}")
        await running
    except SystemExit:  # uvicorn's way to report a port that is taken
        return False
    finally:
        console.store.close()
    return server.started
