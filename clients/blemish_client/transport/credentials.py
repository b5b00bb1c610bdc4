# SPDX-License-Identifier: Apache-2.0
"""How a client shows who it is, and makes sure that the server is the one it means."""

from dataclasses import dataclass, field
from pathlib import Path

import grpc

LOOPBACK = ("localhost:", "127.", "[::1]:", "unix:")


@dataclass(frozen=True)
class Credentials:
    """What calls to a server carry: nothing, a token, TLS, or both.

    A token never leaves this machine unless TLS hides it.
    """

    token: str = field(default="", repr=False)
    """As ``blemish access grant`` printed it."""
    tls: bool = False
    """Whether the server speaks TLS."""
    roots: Path | None = None
    """PEM certificates that vouch for the server's, which is TLS then; else those that gRPC brings."""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call carries."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def channel(self, target: str) -> grpc.ChannelCredentials | None:
        """What a channel to ``target`` is secured by, None if by nothing.

        Raises:
            ValueError: if the token could be read on its way.
            OSError: if the roots cannot be read.
        """
        if self.tls or self.roots is not None:
            return grpc.ssl_channel_credentials(self.roots.read_bytes() if self.roots else None)
        if self.token and not target.startswith(LOOPBACK):
            raise ValueError(
                f"the token could be read on its way to {target}: have the server speak TLS, and say so"
            )
        return None
