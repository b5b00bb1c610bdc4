# SPDX-License-Identifier: Apache-2.0
"""``python -m blemish_local.qdrant``: the embedded Qdrant, until SIGTERM or SIGINT."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from blemish_core.platform import logs
from blemish_local import address
from blemish_local.address import Address, AddressUnusable
from blemish_local.qdrant import server
from blemish_local.qdrant.errors import EngineFailed, StoreUnusable
from blemish_local.qdrant.storage.lock import only_process
from blemish_local.qdrant.storage.store import Store

STOPPED, FAILED, UNUSABLE = 0, 1, 2

log = structlog.get_logger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop and return the exit code."""
    parser = argparse.ArgumentParser(prog="blemish_local.qdrant", allow_abbrev=False)
    parser.add_argument("--dir", type=Path, required=True, metavar="DIR", help="where everything is kept")
    parser.add_argument(
        "--listen",
        default="127.0.0.1:6334",
        metavar="HOST:PORT",
        help="where gRPC is served; port 0 finds a free one (default: 127.0.0.1:6334)",
    )
    told = parser.parse_args(arguments)
    try:
        listen = address.parse(told.listen)
    except ValueError as error:
        parser.error(str(error))
    logs.configure()
    try:
        # The port first: a directory need not be opened for nothing.
        address.settle(listen)
        with only_process(told.dir):
            asyncio.run(_serve(told.dir, listen))
    except (AddressUnusable, StoreUnusable) as error:
        print(f"embedded qdrant: {error}", file=sys.stderr, flush=True)
        return UNUSABLE
    except EngineFailed as error:
        log.error("stopped", reason=str(error))
        return FAILED
    log.info("stopped")
    return STOPPED


async def _serve(directory: Path, listen: Address) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    store = Store(directory)
    try:
        running, taken = await server.start(store, listen)
        log.info("serving", address=str(taken), collections=len(store.names))
        print(f"listening on {taken}", flush=True)
        await server.keep_settled(store, stop)
        await server.shut(running)
    finally:
        store.close()


if __name__ == "__main__":
    sys.exit(main())
