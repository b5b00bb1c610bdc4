# SPDX-License-Identifier: Apache-2.0
"""The gRPC server that puts a store on an address, and keeps it settled until it is stopped."""

import asyncio
from importlib.metadata import version
from typing import Any

import grpc
from qdrant_client import grpc as pb

from blemish_local.address import Address, AddressUnusable
from blemish_local.qdrant.services.collections import CollectionsService
from blemish_local.qdrant.services.points import PointsService
from blemish_local.qdrant.storage.store import Store

LARGEST_MESSAGE_BYTES = 64 << 20
_STOP_WITHIN_S = 2.0
_LOOK_EVERY_S = 1.0
_QUIET_S = 2.0
_MOST_UNSETTLED_S = 60.0
"""While writes or searches go on. Nothing is lost in between: the engine's log has it."""
_MOST_UNSETTLED_POINTS = 25_000
"""Nothing is answered while they are settled, and callers wait ten seconds: on two slow cores it takes
five, and nine for twice as many (bench_search.py)."""

_OPTIONS = [
    ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", LARGEST_MESSAGE_BYTES),
    # Or a second process would get half of the calls instead of an error.
    ("grpc.so_reuseport", 0),
]


class HealthService(pb.QdrantServicer):
    async def HealthCheck(  # noqa: N802 - the contract's name
        self, request: pb.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.HealthCheckReply:
        return pb.HealthCheckReply(title="blemish, embedded Qdrant", version=version("qdrant-edge-py"))


async def start(store: Store, listen: Address) -> tuple[grpc.aio.Server, Address]:
    """Serve ``store`` and return the server with the address it took.

    Raises:
        AddressUnusable: if nothing can listen there.
    """
    server = grpc.aio.server(options=_OPTIONS)
    for add, service in (
        (pb.add_CollectionsServicer_to_server, CollectionsService(store)),
        (pb.add_PointsServicer_to_server, PointsService(store)),
        (pb.add_QdrantServicer_to_server, HealthService()),
    ):
        add(service, server)  # type: ignore[no-untyped-call]  # generated without types
    try:
        port = server.add_insecure_port(str(listen))
    except RuntimeError as error:
        raise AddressUnusable(
            f"port {listen.port} is taken by another process: choose another, "
            f"or let one be found with --listen {Address(listen.host, 0)}"
        ) from error
    await server.start()
    return server, Address(listen.host, port)


async def keep_settled(store: Store, stop: asyncio.Event) -> None:
    """Settle the store whenever writes and searches pause, until ``stop`` is set."""
    while not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), _LOOK_EVERY_S)
        except TimeoutError:
            store.settle(quiet_s=_QUIET_S, most_s=_MOST_UNSETTLED_S, most_points=_MOST_UNSETTLED_POINTS)


async def shut(server: grpc.aio.Server) -> None:
    """Accept no more calls and let those that run end."""
    await server.stop(_STOP_WITHIN_S)
