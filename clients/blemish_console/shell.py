# SPDX-License-Identifier: Apache-2.0
"""The frame of every page: header, banner, errors, and the end of the session."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote

import grpc
from nicegui import ui
from starlette.requests import Request

from blemish.v1.access_pb2 import Role
from blemish_client.errors import BlemishError, InternalError, Unauthenticated
from blemish_console import texts, theme
from blemish_console.session import BrowserSession

THEME_COOKIE = "blemish_console_theme"
_REFRESH_S = 3.0
_SIGN_IN = "/sign-in"


@dataclass(frozen=True)
class NavigationEntry:
    """A page in the navigation."""

    path: str
    title: str
    icon: str
    role: Role.ValueType
    """Lowest role that may open it."""
    is_listed: bool = True
    """False for a page that only other pages lead to."""


@dataclass(frozen=True)
class View:
    """The context in which one browser sees a page."""

    session: BrowserSession
    target: str
    """Address of the server."""
    query: dict[str, str]
    """Parameters of the page's address."""
    root_path: str = ""
    """Path below which a reverse proxy serves the console."""

    async def attempt(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do what the person asked for; if it fails, show the error in the page and return False."""
        try:
            await work()
        except BlemishError as error:
            self.show(error)
            return False
        return True

    def show(self, error: BlemishError) -> None:
        """Show an error of an action, or the sign-in page if the session has ended."""
        if isinstance(error, Unauthenticated):
            leave()
            return
        ui.notification(
            describe(error),
            type="negative",
            position="top",
            close_button=True,
            timeout=None,
            multi_line=True,
        )

    async def quietly(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something in the background. The banner reports a server that does not answer."""
        try:
            await work()
        except BlemishError as error:
            if isinstance(error, Unauthenticated):
                leave()

    async def section(self, frame: ui.element, draw: Callable[[], Awaitable[None]]) -> None:
        """Draw a part of the page, or show the error in its frame with a way to try again."""
        try:
            await draw()
        except BlemishError as error:
            if isinstance(error, Unauthenticated):
                leave()
                return
            frame.clear()
            with frame:
                theme.empty(texts.FAILED, describe(error), "cloud_off")
                ui.button(texts.TRY_AGAIN, on_click=lambda: self.section(frame, draw)).props("flat")


def leave() -> None:
    """Open the sign-in page, from which the person returns to this one."""
    ui.navigate.to(f"{_SIGN_IN}?ended=1")


def describe(error: BlemishError) -> str:
    """Return an error for people."""
    if isinstance(error, InternalError) and error.code is not grpc.StatusCode.DATA_LOSS:
        return texts.SERVER_FAILED.format(message=error.message)
    return error.message


def sign_in_path(path: str) -> str:
    """Return the path of the sign-in page that leads back to ``path``."""
    return f"{_SIGN_IN}?next={quote(path, safe='/')}" if path != "/" else _SIGN_IN


def is_dark(request: Request) -> bool | None:
    """Return the choice of this browser, or None to follow its system."""
    return {"dark": True, "light": False}.get(request.cookies.get(THEME_COOKIE, ""))


def frame(
    view: View, entries: tuple[NavigationEntry, ...], here: NavigationEntry, request: Request
) -> bool:
    """Draw the header with the state of the connection, and return whether the page may be seen."""
    theme.apply()
    dark = ui.dark_mode(is_dark(request))
    root_path = request.scope.get("root_path", "")
    with ui.header().classes("bl-header"):
        ui.label(texts.TITLE).classes("bl-brand")
        for entry in entries:
            if entry.is_listed and view.session.may(entry.role):
                with (
                    ui.link(target=entry.path)
                    .classes("bl-tab")
                    .classes("bl-tab-here" if entry == here else "")
                ):
                    ui.icon(entry.icon, size="20px")
                    ui.label(entry.title).classes("bl-tab-text")
        with ui.element("div").classes("bl-where"):
            state = _ConnectionState(view)
            _theme_button(dark, root_path)
            _caller(view, root_path)
    state.draw_banner()
    ui.timer(_REFRESH_S, state.refresh)
    if view.session.may(here.role):
        return True
    with theme.card():
        lead = texts.NOT_ALLOWED_LEAD.format(role=role_word(here.role))
        theme.empty(texts.NOT_ALLOWED, lead, "lock")
    return False


def role_word(role: Role.ValueType) -> str:
    return Role.Name(role).removeprefix("ROLE_").lower()


class _ConnectionState:
    """The sign of the connection in the header, and the banner while it is lost."""

    def __init__(self, view: View) -> None:
        self._view = view
        with ui.element("span").classes("bl-hide-narrow"):
            ui.label(view.target)
        self._sign = ui.element("span")
        self._was_lost: bool | None = None
        self._banner: ui.element | None = None
        self._reason: ui.label | None = None

    def draw_banner(self) -> None:
        with ui.element("div").classes("bl-banner").props('role="status"') as self._banner:
            ui.icon("cloud_off", size="22px")
            self._reason = ui.label()
        self._update(self._view.session.failure)

    async def refresh(self) -> None:
        session = self._view.session
        failure: BlemishError | None = None
        try:
            await session.refresh()
        except BlemishError as error:
            failure = error
        if not session.is_valid:
            leave()
            return
        self._update(failure)

    def _update(self, failure: BlemishError | None) -> None:
        assert self._banner is not None
        assert self._reason is not None
        is_lost = failure is not None
        if failure is not None:
            self._reason.set_text(
                texts.RECONNECTING.format(target=self._view.target, reason=describe(failure))
            )
        if is_lost == self._was_lost:
            return
        self._was_lost = is_lost
        self._banner.set_visibility(is_lost)
        self._sign.clear()
        with self._sign:
            theme.chip(
                theme.Sign(texts.DISCONNECTED, "cloud_off", "bad")
                if is_lost
                else theme.Sign(texts.CONNECTED, "cloud_done", "good")
            )


def _theme_button(dark: ui.dark_mode, root_path: str) -> None:
    def toggle() -> None:
        # Without a choice the system decides, so the first press is for the other one than it shows.
        dark.value = not dark.value if dark.value is not None else True
        choice = "dark" if dark.value else "light"
        ui.run_javascript(
            f"document.cookie = '{THEME_COOKIE}={choice}; path={root_path or '/'}; "
            "max-age=31536000; samesite=lax'"
        )

    ui.button(icon="contrast", on_click=toggle).props(
        f'flat round dense color=white aria-label="{texts.LIGHT_OR_DARK}"'
    ).tooltip(texts.LIGHT_OR_DARK)


def _caller(view: View, root_path: str) -> None:
    info = view.session.info
    if not info.caller:
        ui.label(texts.NO_SIGN_IN).classes("bl-hide-narrow").style("opacity: .7")
        return
    ui.label(f"{info.caller} ({role_word(info.role)})").classes("bl-hide-narrow")
    # A form, because the cookie is removed by the answer.
    form = ui.element("form").props(f'method=post action="{root_path}/sign-out"')
    with form:
        ui.button(texts.SIGN_OUT, icon="logout").props("flat dense color=white type=submit")
