# SPDX-License-Identifier: Apache-2.0
"""Readiness probes: each makes one attempt and returns, or raises ``NotReady``.

The probe of Qdrant calls ``qdrant.Qdrant/HealthCheck`` with raw bytes, which avoids importing its client.
The server and the worker write a file.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import grpc.aio

from blemish_core.platform.channels import channel_options, open_channel
from blemish_core.platform.errors import BlemishError
from blemish_core.platform.redis_check import RedisCheck

Probe = Callable[[], Awaitable[None]]
"""A function that returns if the service is ready, and raises ``NotReady`` otherwise."""

_TIMEOUT_S = 2.0

Response = TypeVar("Response")


class NotReady(Exception):
    """A service that is not ready; the text is the reason."""


async def redis_answers(url: str) -> None:
    try:
        await asyncio.to_thread(RedisCheck.connect(url, timeout_s=_TIMEOUT_S).ping)
    except BlemishError as error:
        raise NotReady(str(error)) from error


async def qdrant_answers(target: str, *, encrypted: bool = False, proxy: str = "") -> None:
    # Otherwise channels to one target share their back-off, and a first attempt that came too early
    # would delay the next ones by a second.
    options = channel_options(proxy, use_local_subchannel_pool=1)
    async with open_channel(target, options, secure=encrypted) as channel:
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/qdrant.Qdrant/HealthCheck"
        )
        await _call(check(b"", timeout=_TIMEOUT_S))


async def file_exists(path: Path) -> None:
    if not path.exists():
        raise NotReady(f"it has not written {path}")


async def _call(call: Awaitable[Response]) -> Response:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise NotReady(f"{error.code().name}: {error.details()}") from error
