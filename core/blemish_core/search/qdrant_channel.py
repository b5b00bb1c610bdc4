# SPDX-License-Identifier: Apache-2.0
"""Connections to Qdrant's gRPC services from an event loop."""

from typing import Any
from urllib.parse import urlsplit

import grpc.aio

Channel = grpc.aio.Channel
"""A connection that opens with the first call."""
CHANNEL_OPTIONS = {
    "grpc.max_receive_message_length": 64 << 20,
    # Notice within a second that Qdrant is back. The default is two minutes.
    "grpc.max_reconnect_backoff_ms": 1000,
}
"""gRPC options of connections to Qdrant."""


def open_channel(url: str, grpc_port: int, api_key: str = "") -> Channel:
    """Create a channel to Qdrant; the first call opens the connection."""
    target, secure = grpc_address(url, grpc_port)
    options = [*CHANNEL_OPTIONS.items()]
    interceptors = [_ApiKeyInterceptor(api_key)] if api_key else None
    if secure:
        return grpc.aio.secure_channel(
            target, grpc.ssl_channel_credentials(), options, interceptors=interceptors
        )
    return grpc.aio.insecure_channel(target, options, interceptors=interceptors)


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
