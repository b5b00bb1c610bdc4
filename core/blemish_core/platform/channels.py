# SPDX-License-Identifier: Apache-2.0
"""gRPC channels to the other services of an installation, as the server, workers and probes open them.

Qdrant runs next to the server or in its network. A proxy that the environment names is meant for the
internet and cannot reach it, so a channel takes only a proxy that its caller names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import grpc.aio

Channel = grpc.aio.Channel
"""A connection that opens with the first call."""


def channel_options(proxy: str = "", **options: int) -> dict[str, Any]:
    """Return the options of a channel that ignores the proxies of the environment.

    Args:
        proxy: URL of an HTTP proxy to take instead; empty connects directly.
        options: further options, without the prefix ``grpc.``.
    """
    route = {"grpc.http_proxy": proxy} if proxy else {"grpc.enable_http_proxy": 0}
    return {**route, **{f"grpc.{name}": value for name, value in options.items()}}


def open_channel(
    target: str,
    options: Mapping[str, Any],
    *,
    secure: bool = False,
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
) -> Channel:
    """Create a channel with ``options``, as ``channel_options`` returns them."""
    pairs = [*options.items()]
    if secure:
        return grpc.aio.secure_channel(
            target, grpc.ssl_channel_credentials(), pairs, interceptors=interceptors
        )
    return grpc.aio.insecure_channel(target, pairs, interceptors=interceptors)
