# SPDX-License-Identifier: Apache-2.0
"""A program that forks while it uses clients: ``python -m tests.support.forking CASE TARGET``.

It prints the outcome of the child: ``ok`` or an error, then the signal that ended it or ``hangs``, if any.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

from blemish_client import AsyncClient, Client, FrameResult, LostFrames

_WITHIN_S = 15.0


def child(action: Callable[[], object]) -> None:
    """Run an action in a forked child, and print its outcome."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        try:
            action()
            print("ok", flush=True)
        except Exception as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(0)  # as multiprocessing ends its processes
    deadline = time.monotonic() + _WITHIN_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            if os.WIFSIGNALED(status):
                print(f"ended by signal {os.WTERMSIG(status)}", flush=True)
            return
        time.sleep(0.02)
    print("hangs", flush=True)
    os.kill(process, 9)
    os.waitpid(process, 0)


def frames() -> Iterator[bytes]:
    while True:
        time.sleep(0.02)
        yield b"image"


async def frames_in_event_loop() -> AsyncIterator[bytes]:
    while True:
        await asyncio.sleep(0.02)
        yield b"image"


def call(target: str) -> object:
    with Client(target) as client:
        return client.server_info()


async def call_in_event_loop(target: str) -> object:
    async with AsyncClient(target) as client:
        return await client.server_info()


def used(target: str) -> None:
    with Client(target) as client:
        client.server_info()
        child(client.server_info)
        client.server_info()


def unused(target: str) -> None:
    with Client(target) as client:
        child(client.server_info)
        client.server_info()


def streams(target: str) -> None:
    with Client(target) as client:
        results = client.stream(frames(), "m")
        next(results)
        child(lambda: next(results))
        next(results)
        results.close()  # type: ignore[attr-defined]  # a generator


def watches(target: str) -> None:
    with Client(target) as client:
        watch = client.watch("jobs/made")
        next(watch)
        child(lambda: next(watch))
        list(watch)


def leaves_with_block(target: str) -> None:
    def act() -> None:
        with client:
            client.server_info()

    client = Client(target)
    client.server_info()
    child(act)
    client.close()


def closes(target: str) -> None:
    with Client(target) as client:
        client.server_info()
        child(client.close)
        client.server_info()


def asyncio_unused(target: str) -> None:
    async def create() -> AsyncClient:
        return AsyncClient(target)

    client = asyncio.run(create())
    child(lambda: asyncio.run(client.server_info()))


def asyncio_used(target: str) -> None:
    async def create() -> AsyncClient:
        client = AsyncClient(target)
        await client.server_info()
        return client

    client = asyncio.run(create())
    child(lambda: asyncio.run(client.server_info()))


def asyncio_within_loop(target: str) -> None:
    async def run() -> None:
        async with AsyncClient(target) as client:
            await client.server_info()

            def act() -> None:
                # A child has no running loop, although this one began in the parent's.
                asyncio.events._set_running_loop(None)
                asyncio.run(client.server_info())

            child(act)
            await client.server_info()

    asyncio.run(run())


def asyncio_streams(target: str) -> None:
    async def run() -> None:
        async with AsyncClient(target) as client:
            results = client.stream(frames_in_event_loop(), "m")
            await anext(results)

            async def next_result() -> FrameResult | LostFrames:
                return await anext(results)

            def act() -> None:
                asyncio.events._set_running_loop(None)
                asyncio.run(next_result())

            child(act)
            await anext(results)
            await results.aclose()

    asyncio.run(run())


def new_client(target: str) -> None:
    with Client(target) as client:
        client.server_info()
        child(lambda: call(target))
        client.server_info()


def new_asyncio_client(target: str) -> None:
    with Client(target) as client:
        client.server_info()
        child(lambda: asyncio.run(call_in_event_loop(target)))
        client.server_info()


def new_client_after_asyncio(target: str) -> None:
    asyncio.run(call_in_event_loop(target))
    child(lambda: call(target))


def _busy(target: str, work: Callable[[], object], action: Callable[[], object]) -> None:
    threading.Thread(target=work, daemon=True).start()
    time.sleep(1)
    child(action)
    os._exit(0)  # the thread never ends


async def _stream_in_event_loop(target: str) -> None:
    async with AsyncClient(target) as client:
        async for _ in client.stream(frames_in_event_loop(), "m"):
            pass


def new_client_beside_stream(target: str) -> None:
    client = Client(target)
    _busy(target, lambda: list(client.stream(frames(), "m")), lambda: call(target))


def new_client_beside_calls(target: str) -> None:
    client = Client(target)

    def work() -> None:
        while True:
            client.server_info()

    _busy(target, work, lambda: call(target))


def new_client_beside_asyncio_stream(target: str) -> None:
    _busy(target, lambda: asyncio.run(_stream_in_event_loop(target)), lambda: call(target))


def nothing_beside_asyncio_stream(target: str) -> None:
    _busy(target, lambda: asyncio.run(_stream_in_event_loop(target)), lambda: None)


CASES: dict[str, Callable[[str], None]] = {
    case.__name__: case
    for case in (
        used,
        unused,
        streams,
        watches,
        leaves_with_block,
        closes,
        asyncio_unused,
        asyncio_used,
        asyncio_within_loop,
        asyncio_streams,
        new_client,
        new_asyncio_client,
        new_client_after_asyncio,
        new_client_beside_stream,
        new_client_beside_calls,
        new_client_beside_asyncio_stream,
        nothing_beside_asyncio_stream,
    )
}

if __name__ == "__main__":
    CASES[sys.argv[1]](sys.argv[2])
