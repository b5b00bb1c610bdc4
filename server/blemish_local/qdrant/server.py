# SPDX-License-Identifier: Apache-2.0
"""The gRPC server over a store, and the task that keeps the store settled."""

import asyncio
from importlib.metadata import version
from typing import Any

import grpc
from qdrant_client import grpc as pb

from blemish_local.address import Address, AddressUnusable
from blemish_local.qdrant.services.collections import CollectionsService
from blemish_local.qdrant.services.points import PointsService
from blemish_local.qdrant.storage.store import CollectionStore

LARGEST_MESSAGE_BYTES = 64 << 20
_STOP_WITHIN_S = 2.0
_CHECK_EVERY_S = 1.0
_QUIET_S = 2.0
_MAX_UNSETTLED_S = 60.0
"""Longest time between two settlings while requests keep coming. The engine's log loses no write."""
_MAX_UNSETTLED_POINTS = 25_000
"""Most points per settling. Clients time out after ten seconds, and settling blocks all requests."""

_OPTIONS = [
    ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", LARGEST_MESSAGE_BYTES),
    # Otherwise a second process on the port would receive half of the calls instead of an error.
    ("grpc.so_reuseport", 0),
    # Welcome pings every ten seconds, with and without calls. Half of that leaves room for delays.
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Disconnect clients that are gone without a word.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 30_000),
    ("grpc.http2.ping_timeout_ms", 30_000),  # gRPC 1.85 only obeys this limit for pings
]


class EmbeddedHealthService(pb.QdrantServicer):
    """Qdrant's health check."""

    async def HealthCheck(  # noqa: N802 - the contract's name
        self, request: pb.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.HealthCheckReply:
        return pb.HealthCheckReply(title="blemish, embedded Qdrant", version=version("qdrant-edge-py"))


async def start(store: CollectionStore, listen: Address) -> tuple[grpc.aio.Server, Address]:
    """Serve the store and return the server with the address it is bound to.

    Raises:
        AddressUnusable: if the port is in use.
    """
    server = grpc.aio.server(options=_OPTIONS)
    for add, service in (
        (pb.add_CollectionsServicer_to_server, CollectionsService(store)),
        (pb.add_PointsServicer_to_server, PointsService(store)),
        (pb.add_QdrantServicer_to_server, EmbeddedHealthService()),
    ):
        add(service, server)  # type: ignore[no-untyped-call]  # generated without types
    try:
        port = server.add_insecure_port(str(listen))
    except RuntimeError as error:
        raise AddressUnusable(
            f"port {listen.port} is taken by another process; choose another, "
            f"or let one be found with --listen {Address(listen.host, 0)}"
        ) from error
    await server.start()
    return server, Address(listen.host, port)


async def keep_settled(store: CollectionStore, stop: asyncio.Event) -> None:
    """Settle the store whenever requests pause, until ``stop`` is set."""
    while not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), _CHECK_EVERY_S)
        except TimeoutError:
            store.settle(quiet_s=_QUIET_S, max_age_s=_MAX_UNSETTLED_S, max_points=_MAX_UNSETTLED_POINTS)


async def shut(server: grpc.aio.Server) -> None:
    """Stop accepting calls and wait briefly for the running ones."""
    await server.stop(_STOP_WITHIN_S)
