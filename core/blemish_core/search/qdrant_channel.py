# SPDX-License-Identifier: Apache-2.0
"""Connections to Qdrant: the client for threads, and channels for an event loop."""

from typing import Any
from urllib.parse import urlsplit

import grpc.aio
from qdrant_client import QdrantClient

from blemish_core.platform import channels
from blemish_core.platform.channels import Channel, channel_options

_OPTIONS = {
    "max_receive_message_length": 64 << 20,
    # Notice within a second that Qdrant is back. The default is two minutes.
    "max_reconnect_backoff_ms": 1000,
    # Give up a connection on which nothing arrives. Otherwise it stays in use for a quarter of an hour.
    "keepalive_time_ms": 10_000,
    "keepalive_timeout_ms": 10_000,
    "http2.ping_timeout_ms": 10_000,  # gRPC 1.85 only obeys this limit for pings
    "http2.max_pings_without_data": 0,
}


def open_client(
    url: str, grpc_port: int, api_key: str = "", proxy: str = "", *, timeout_s: int
) -> QdrantClient:
    """Create a client whose first call opens the connection."""
    return QdrantClient(
        url=url,
        port=urlsplit(url).port or 6333,
        grpc_port=grpc_port,
        prefer_grpc=True,
        api_key=api_key or None,
        timeout=timeout_s,
        check_compatibility=False,  # uses REST, which the embedded Qdrant does not offer
        grpc_options=channel_options(proxy, **_OPTIONS),
        # For calls over REST, as for gRPC: no proxy of the environment.
        trust_env=False,
        proxy=proxy or None,
    )


def open_channel(url: str, grpc_port: int, api_key: str = "", proxy: str = "") -> Channel:
    """Create a channel to Qdrant; the first call opens the connection."""
    target, secure = grpc_address(url, grpc_port)
    interceptors = [_ApiKeyInterceptor(api_key)] if api_key else None
    options = channel_options(proxy, **_OPTIONS)
    return channels.open_channel(target, options, secure=secure, interceptors=interceptors)


def grpc_address(url: str, grpc_port: int) -> tuple[str, bool]:
    """Return the target of gRPC calls, and whether they use TLS, as Qdrant's client reads ``url``."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    host = parts.hostname or "localhost"
    return f"[{host}]:{grpc_port}" if ":" in host else f"{host}:{grpc_port}", parts.scheme == "https"


class _ApiKeyInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
    """An interceptor that adds Qdrant's API key to each call."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        call = client_call_details
        metadata = grpc.aio.Metadata(*(call.metadata or ()), ("api-key", self._api_key))
        with_key = grpc.aio.ClientCallDetails(
            call.method, call.timeout, metadata, call.credentials, call.wait_for_ready
        )
        return await continuation(with_key, request)
