# SPDX-License-Identifier: Apache-2.0
"""The part that the blocking and the asyncio client have in common."""

import warnings
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from blemish_client.transport.channel import Keepalive
from blemish_client.transport.connection import TIMEOUT_S, Endpoint
from blemish_client.transport.credentials import Credentials
from blemish_client.transport.retry import RetryPolicy

_Connection = TypeVar("_Connection", bound=Endpoint)


class SharedClient(ABC, Generic[_Connection]):
    """A client's address, timeout, retry policy and credentials."""

    _connection_class: type[_Connection]

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        timeout_s: float = TIMEOUT_S,
        retry_policy: RetryPolicy | None = None,
        credentials: Credentials | None = None,
        keepalive: Keepalive | None = None,
        patience: RetryPolicy | None = None,
    ) -> None:
        """Prepare calls to a server. The first call connects.

        Args:
            target: address of the server, HOST:PORT or unix:PATH. With dns:///HOST:PORT, calls go to all
                addresses of the name in turn.
            timeout_s: timeout of a call, in seconds.
            retry_policy: retries while the server is unavailable.
            credentials: token and TLS settings.
            keepalive: pings that detect silent links.
            patience: deprecated name of ``retry_policy``.

        Raises:
            ValueError: if a token would be sent to another machine without TLS.
            OSError: if the root certificates cannot be read.
            FailedPrecondition: if this process was forked while its parent used gRPC.
        """
        if patience is not None:
            warnings.warn("patience is deprecated; use retry_policy", DeprecationWarning, stacklevel=2)
        self._connection = self._connection_class(
            target,
            timeout_s=timeout_s,
            retry_policy=retry_policy or patience,
            credentials=credentials,
            keepalive=keepalive,
        )
        self._create_stubs()

    @abstractmethod
    def _create_stubs(self) -> None: ...

    @property
    def target(self) -> str:
        """Address of the server."""
        return self._connection.target
