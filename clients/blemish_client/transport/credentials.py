# SPDX-License-Identifier: Apache-2.0
"""Authentication of a client and encryption of its connection."""

from dataclasses import dataclass, field
from pathlib import Path

import grpc

from blemish_client.transport.target import is_on_this_machine


@dataclass(frozen=True)
class Credentials:
    """A bearer token, TLS settings, or both.

    A token is never sent to another machine without TLS.
    """

    token: str = field(default="", repr=False)
    """Bearer token as printed by ``blemish access grant``."""
    tls: bool = False
    """True to connect with TLS."""
    roots: Path | None = None
    """PEM file with the root certificates that verify the server. Implies TLS. None uses gRPC's own."""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata that each call sends."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def channel(self, target: str) -> grpc.ChannelCredentials | None:
        """Return the TLS credentials for a channel to ``target``, or None for a plaintext channel.

        Raises:
            ValueError: if the token would be sent to another machine without TLS.
            OSError: if the root certificates cannot be read.
        """
        if self.tls or self.roots is not None:
            return grpc.ssl_channel_credentials(self.roots.read_bytes() if self.roots else None)
        if self.token and not is_on_this_machine(target):
            raise ValueError(f"the token would be sent to {target} in plaintext; connect with TLS")
        return None
