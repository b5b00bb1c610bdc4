# SPDX-License-Identifier: Apache-2.0
"""The sign-in page: plain HTML without scripts, so that no script ever receives a token."""

from dataclasses import dataclass

from jinja2 import Environment, PackageLoader
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from blemish_client.errors import BlemishError, Unauthenticated
from blemish_console import texts
from blemish_console.session import SessionStore
from blemish_console.shell import describe, is_dark

_MAX_BODY_BYTES = 16384
_RETRY_S = 3
_TEMPLATES = Environment(loader=PackageLoader("blemish_console"), autoescape=True)


@dataclass(frozen=True)
class SignIn:
    """Signs browsers in and out. The cookie has the id of a session, and scripts cannot read it."""

    store: SessionStore
    cookie: str

    async def show(self, request: Request) -> Response:
        """Show the page, or leave it at once if the server needs no token."""
        if self.store.find(request.cookies.get(self.cookie, "")) is not None:
            return _redirect(request, request.query_params.get("next", ""))
        try:
            if await self.store.open() is not None:
                return _redirect(request, request.query_params.get("next", ""))
        except (BlemishError, OSError) as error:
            return self.server_away(request, error)
        problem = texts.SESSION_ENDED if "ended" in request.query_params else ""
        return self._page(request, request.query_params.get("next", ""), problem)

    async def sign_in(self, request: Request) -> Response:
        length = request.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > _MAX_BODY_BYTES:
            return Response(status_code=413)
        form = await request.form(max_files=0, max_fields=4)
        target, token = str(form.get("next", "")), str(form.get("token", "")).strip()
        if not token or not token.isascii() or not token.isprintable():
            problem = texts.TOKEN_REJECTED if token else texts.TOKEN_MISSING
            return self._page(request, target, problem, status=400)
        try:
            id = await self.store.sign_in(token)
        except Unauthenticated:
            return self._page(request, target, texts.TOKEN_REJECTED, status=401)
        except BlemishError as error:
            return self._page(request, target, describe(error), status=503)
        except (OSError, ValueError) as error:
            return self._page(request, target, str(error), status=503)
        self.store.sign_out(request.cookies.get(self.cookie, ""))
        answer = _redirect(request, target)
        answer.set_cookie(
            self.cookie,
            id,
            max_age=int(self.store.lifetime_s),
            path=_root(request) or "/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="lax",
        )
        return answer

    async def sign_out(self, request: Request) -> Response:
        self.store.sign_out(request.cookies.get(self.cookie, ""))
        answer = RedirectResponse(f"{_root(request)}/sign-in", 303)
        answer.delete_cookie(self.cookie, path=_root(request) or "/", httponly=True, samesite="lax")
        return answer

    def server_away(self, request: Request, error: Exception) -> Response:
        """Return a page that opens again by itself until the server answers."""
        problem = describe(error) if isinstance(error, BlemishError) else str(error)
        return self._render(
            request,
            503,
            lead=f"{texts.SERVER_AWAY.format(target=self.store.server.target)} {texts.SERVER_AWAY_LEAD}",
            problem=problem,
            retry_s=_RETRY_S,
            asks=False,
        )

    def _page(self, request: Request, target: str, problem: str, status: int = 200) -> Response:
        lead = texts.SIGN_IN_LEAD.format(target=self.store.server.target)
        return self._render(
            request, status, lead=lead, problem=problem, next=_own_path(target), retry_s=0, asks=True
        )

    def _render(self, request: Request, status: int, **values: object) -> Response:
        page = _TEMPLATES.get_template("sign_in.html.j2").render(
            texts=texts, root_path=_root(request), dark=is_dark(request), **values
        )
        return HTMLResponse(page, status, headers={"cache-control": "no-store"})


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", ""))


def _redirect(request: Request, target: str) -> Response:
    return RedirectResponse(_root(request) + _own_path(target), 303)


def _own_path(text: str) -> str:
    """Return a path of the console, so that the sign-in never leads to another site."""
    is_path = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable()
    return text if is_path and "\\" not in text else "/"
