# SPDX-License-Identifier: Apache-2.0
"""How a part shows that it is ready: each probe asks once, and returns or raises ``NotYet``.

Qdrant is asked by its own ``qdrant.Qdrant/HealthCheck``, as raw bytes so that its client need not be
loaded; server and worker write a file.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import grpc.aio
import redis.asyncio
from redis.exceptions import RedisError

Probe = Callable[[], Awaitable[None]]
"""Returns once the part is ready; raises ``NotYet`` otherwise."""

_ANSWER_WITHIN_S = 2.0

Answer = TypeVar("Answer")


class NotYet(Exception):
    """The part does not serve; the text says what it did instead."""


async def redis_answers(url: str) -> None:
    # Without a retry policy of its own: the caller asks again, and counts the time.
    client = redis.asyncio.Redis.from_url(
        url,
        retry=None,
        socket_timeout=_ANSWER_WITHIN_S,
        socket_connect_timeout=_ANSWER_WITHIN_S,
    )
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        raise NotYet(str(error)) from error
    finally:
        await client.aclose()


async def qdrant_answers(target: str, *, encrypted: bool = False) -> None:
    async with _channel(target, encrypted=encrypted) as channel:
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/qdrant.Qdrant/HealthCheck"
        )
        await _ask(check(b"", timeout=_ANSWER_WITHIN_S))


async def file_exists(path: Path) -> None:
    if not path.exists():
        raise NotYet(f"it has not written {path}")


@contextlib.asynccontextmanager
async def _channel(target: str, *, encrypted: bool = False) -> AsyncIterator[grpc.aio.Channel]:
    options = [
        # A proxy from the environment is for the world outside this machine.
        ("grpc.enable_http_proxy", 0),
        # Channels to one target share their back-off otherwise, and a part that was asked too
        # early would be asked again only a second later.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    channel = (
        grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options=options)
        if encrypted
        else grpc.aio.insecure_channel(target, options=options)
    )
    async with channel:
        yield channel


async def _ask(call: Awaitable[Answer]) -> Answer:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise NotYet(f"{error.code().name}: {error.details()}") from error
