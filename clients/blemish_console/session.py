# SPDX-License-Identifier: Apache-2.0
"""Sessions of browsers. The token of a caller stays here; the browser only has the id of its session."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from blemish.v1.access_pb2 import Role
from blemish.v1.server_pb2 import GetServerInfoResponse
from blemish_client.aio import AsyncClient
from blemish_client.client import Client
from blemish_client.errors import BlemishError, Unauthenticated
from blemish_client.transport.credentials import Credentials
from blemish_console.data.line import WITHOUT_END, LineWatch

MAX_SESSIONS = 1000
"""Number of sessions in memory. Above it the oldest one ends."""
_MAX_CALLS = 16
"""Number of calls of all pages that run at the same time."""
_TIMEOUT_S = 10.0
"""Timeout of a call, shorter than the default, because a person is waiting."""
_FRESH_S = 2.0
"""Age up to which an answer about the server serves other pages of the session, in seconds."""

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Server:
    """The gRPC server of the console, and how it is reached."""

    target: str
    """Address: HOST:PORT or unix:PATH."""
    tls: bool = False
    roots: Path | None = None
    """PEM file with the root certificates that verify the server. Implies TLS."""

    def client(self, token: str) -> Client:
        """Return a client with this token; empty for none.

        Raises:
            ValueError: if the token would be sent to another machine without TLS.
            OSError: if the root certificates cannot be read.
        """
        credentials = Credentials(token, self.tls, self.roots)
        return Client(self.target, timeout_s=_TIMEOUT_S, credentials=credentials)

    def job_client(self, token: str) -> AsyncClient:
        """Return a client with this token for watching a job."""
        return AsyncClient(self.target, credentials=Credentials(token, self.tls, self.roots))

    def watching_client(self, token: str) -> AsyncClient:
        """Return a client with this token for a watch that awaits the server without end."""
        credentials = Credentials(token, self.tls, self.roots)
        return AsyncClient(self.target, retry_policy=WITHOUT_END, credentials=credentials)


class BrowserSession:
    """A caller at a browser, or all browsers of a server without an access file."""

    def __init__(
        self,
        client: Client,
        pool: ThreadPoolExecutor,
        ends_at: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        open_job_client: Callable[[], AsyncClient],
        open_watching_client: Callable[[], AsyncClient],
    ) -> None:
        """Start a session that ends at a time of the clock, in seconds."""
        self.open_job_client = open_job_client
        """Opens a client for watching a job. The caller closes it."""
        self.line = LineWatch(open_watching_client, self.end)
        """Watch of the line, shared by all pages of the session."""
        self._client = client
        self._pool = pool
        self._ends_at = ends_at
        self._clock = clock
        self._lock = asyncio.Lock()
        self._read_at = float("-inf")
        self._is_ended = False
        self.info = GetServerInfoResponse()
        """Latest answer about the server and the caller."""
        self.failure: BlemishError | None = None
        """Reason for which the latest question about the server failed; None if it was answered."""

    @property
    def is_valid(self) -> bool:
        """False once the session has expired, was signed out, or its token was rejected."""
        return not self._is_ended and self._clock() < self._ends_at

    @property
    def is_ended(self) -> bool:
        """True if the session was ended before its time: signed out, or its token was rejected."""
        return self._is_ended

    @property
    def caller(self) -> str:
        """Name of the caller; empty on a server without an access file."""
        return self.info.caller

    def may(self, role: Role.ValueType) -> bool:
        """Return whether the caller's role includes ``role``; without an access file it always does."""
        return not self.info.caller or self.info.role >= role

    async def call(
        self,
        function: Callable[Concatenate[Client, _Arguments], _Result],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Result:
        """Return the result of a function of the client, run in a thread.

        Raises:
            BlemishError: if its call fails. ``Unauthenticated`` also ends the session.
        """
        if not self.is_valid:
            raise session_ended()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, lambda: function(self._client, *args, **kwargs))
        except Unauthenticated:
            self.end()
            raise

    async def refresh(self) -> GetServerInfoResponse:
        """Read the state of the server, unless that was done a moment ago.

        Raises:
            BlemishError: if the call fails; it is also kept as ``failure``.
        """
        async with self._lock:
            if self._clock() - self._read_at > _FRESH_S:
                try:
                    self.info = await self.call(lambda client: client.server_info())
                    self.failure = None
                except BlemishError as error:
                    self.failure = error
                self._read_at = self._clock()
            if self.failure is not None:
                raise self.failure
            return self.info

    def end(self) -> None:
        """End the session and its calls."""
        if not self._is_ended:
            self._is_ended = True
            self.line.close()
            self._client.close()


def session_ended() -> Unauthenticated:
    """Return the error of a call in a session that has ended."""
    import grpc

    return Unauthenticated("the session has ended; sign in", code=grpc.StatusCode.UNAUTHENTICATED)


@dataclass
class SessionStore:
    """The sessions of all browsers, in memory only: a restart of the console ends them."""

    server: Server
    lifetime_s: float
    """Time from the sign-in to the end of a session, in seconds."""
    clock: Callable[[], float] = time.monotonic
    pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_MAX_CALLS, thread_name_prefix="console-call")
    )
    """Threads that wait for the server."""
    _sessions: dict[bytes, BrowserSession] = field(default_factory=dict, init=False)
    _shared: BrowserSession | None = field(default=None, init=False)
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def sign_in(self, token: str) -> str:
        """Start a session with a token and return its id, which is not stored here.

        Raises:
            BlemishError: if the server rejects the token, or is unreachable.
            ValueError: if the token would be sent to another machine without TLS.
            OSError: if the root certificates cannot be read.
        """
        session = self._start(token, self.lifetime_s)
        try:
            await session.refresh()
        except BlemishError:
            session.end()
            raise
        self._remove_ended()
        while len(self._sessions) >= MAX_SESSIONS:
            self._sessions.pop(next(iter(self._sessions))).end()
        id = secrets.token_urlsafe(32)
        self._sessions[_digest(id)] = session
        return id

    def find(self, id: str) -> BrowserSession | None:
        """Return the valid session with this id, or None."""
        session = self._sessions.get(_digest(id)) if id else None
        return session if session is not None and session.is_valid else None

    def sign_out(self, id: str) -> None:
        """End the session with this id, if there is one."""
        if (session := self._sessions.pop(_digest(id), None)) is not None:
            session.end()

    @property
    def shared(self) -> BrowserSession | None:
        """The session of all browsers, if the server has no access file as far as is known."""
        return self._shared if self._shared is not None and self._shared.is_valid else None

    async def open(self) -> BrowserSession | None:
        """Return the session of all browsers, or None if the server requires a token.

        Raises:
            BlemishError: if the server is unreachable and has not answered before.
            OSError: if the root certificates cannot be read.
        """
        async with self._opening:
            if self.shared is not None:
                return self._shared
            session = self._start("", float("inf"))
            try:
                await session.refresh()
            except Unauthenticated:
                return None
            except BlemishError:
                session.end()
                raise
            self._shared = session
            return session

    def close(self) -> None:
        """End all sessions."""
        for session in [*self._sessions.values(), *filter(None, [self._shared])]:
            session.end()
        self._sessions.clear()
        self.pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, token: str, lifetime_s: float) -> BrowserSession:
        return BrowserSession(
            self.server.client(token),
            self.pool,
            self.clock() + lifetime_s,
            self.clock,
            open_job_client=lambda: self.server.job_client(token),
            open_watching_client=lambda: self.server.watching_client(token),
        )

    def _remove_ended(self) -> None:
        for key in [key for key, session in self._sessions.items() if not session.is_valid]:
            self._sessions.pop(key).end()


def _digest(id: str) -> bytes:
    """Return the key of a session: a copy of this process's memory gives no ids away."""
    return hashlib.sha256(id.encode()).digest()
