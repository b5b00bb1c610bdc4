# SPDX-License-Identifier: Apache-2.0
"""``python -m blemish_local.qdrant``: the embedded Qdrant, until SIGTERM or SIGINT."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer

from blemish_core.platform import logs
from blemish_local import address
from blemish_local.address import Address, AddressUnusable
from blemish_local.qdrant import server
from blemish_local.qdrant.errors import EngineFailed, StoreUnusable
from blemish_local.qdrant.storage.lock import only_process
from blemish_local.qdrant.storage.store import CollectionStore

FAILED, UNUSABLE = 1, 2

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
log = structlog.get_logger(__name__)


@app.command()
def main(
    directory: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Folder of the collections.")],
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address of the gRPC server; port 0 picks a free port.")
    ] = "127.0.0.1:6334",
) -> None:
    """Serve Qdrant's gRPC API until SIGTERM or SIGINT.

    Example: python -m blemish_local.qdrant --dir /srv/qdrant
    """
    try:
        target = address.parse_port(listen)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--listen") from error
    logs.configure()
    try:
        # Check the port before the directory is opened, which takes longer.
        address.settle(target)
        with only_process(directory):
            asyncio.run(_serve(directory, target))
    except (AddressUnusable, StoreUnusable) as error:
        print(f"embedded qdrant: {error}", file=sys.stderr, flush=True)
        raise typer.Exit(UNUSABLE) from error
    except EngineFailed as error:
        log.error("stopped", reason=str(error))
        raise typer.Exit(FAILED) from error
    log.info("stopped")


async def _serve(directory: Path, listen: Address) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    store = CollectionStore(directory)
    try:
        running, bound = await server.start(store, listen)
        if store.is_open:
            log.info("serving", address=str(bound), collections=len(store.names))
        else:
            log.warning("the disk is full; collections are opened once it has space", address=str(bound))
        print(f"listening on {bound}", flush=True)
        await server.keep_settled(store, stop)
        await server.shut(running)
    finally:
        store.close()


if __name__ == "__main__":
    app()
