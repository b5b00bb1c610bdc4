# SPDX-License-Identifier: Apache-2.0
"""Settings of the server, read from the environment."""

import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode

from blemish_core.platform.unix_socket import UnixSocket
from blemish_core.settings import StackSettings
from blemish_server.scoring.batcher import BatchingPolicy

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class ServerSettings(StackSettings):
    """The server's own settings, in addition to those it shares with the workers."""

    listen: str = "localhost:50051"
    """Address to serve on: HOST:PORT, where port 0 takes a free one, or a unix socket, such as
    ``unix:/run/blemish.sock``."""

    listen_mode: str = Field("600", pattern=r"^0?[0-7]{3}$")
    """Permissions of the file of a unix socket, in octal; ``660`` admits the group."""

    metrics_listen: str = Field("", pattern=r"^(.+:\d+)?$")
    """Address for Prometheus, as HOST:PORT, over plain HTTP and without a token; empty disables it."""

    access_file: Path | None = None
    """Credentials and roles of callers, as written by ``blemish access``; without it, authentication is
    disabled."""

    tls_certificate: Path | None = None
    """Certificate chain in PEM format; with it and its key, the server accepts only TLS."""

    tls_key: Path | None = None
    """Private key of the certificate in PEM format, without a password."""

    import_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders from which ImportDataset may read, separated as in PATH."""

    shared_memory: bool = False
    """True to let clients of the Open Inference Protocol on this machine send tensors in shared memory.
    Callers may then read and write every shared memory object of the server's user."""

    max_message_bytes: int = Field(192 << 20, ge=1 << 20)
    """Largest request or response, in bytes. The default fits raw frames of 50 megapixels in four
    channels."""

    max_queued: int = Field(64, ge=1)
    """Images queued ahead of a new one for the same model, from which on it is rejected."""

    max_waiting_bytes: int = Field(512 << 20, ge=1 << 20)
    """Encoded images held at once for all requests, in bytes; more are rejected. A ninth is reserved for
    other callers while one uses all it can."""

    max_batch_size: int = Field(8, ge=1)
    """Images scored in one forward pass on a GPU."""

    batch_wait_ms: float = Field(2.0, ge=0)
    """Time that the first image of a batch waits for others on a GPU, in milliseconds."""

    cpu_lanes: int = Field(0, ge=0)
    """Images of one model scored at once on a CPU, each on its share of the cores. The value 0 takes one
    per core and an extra one, which computes while another waits for the GIL. Fewer lanes shorten the time
    per image while many are queued."""

    max_loaded_bytes: int = Field(4 << 30, ge=1 << 20)
    """Size of the models in memory, in bytes; the least recently used ones are unloaded above it."""

    preload: bool = True
    """True to load the models in production before the server is ready, within ``max_loaded_bytes``."""

    keep_frames: int = Field(100_000, ge=0)
    """Frames recorded for search per model version; the oldest are deleted first, except labelled ones."""

    keep_frames_days: float = Field(90.0, gt=0)
    """Age at which recorded frames are deleted, in days."""

    keepalive_s: float = Field(30.0, ge=1)
    """Time without data after which the server sends a ping to a client, in seconds. A client that does not
    answer within the same time is disconnected, and its streams end."""

    max_connections: int = Field(4000, ge=1)
    """Connections at once; more are closed as they arrive. The limit of open files of the process may allow
    fewer."""

    max_watchers: int = Field(64, ge=1)
    """Clients that watch inspections at once; more are rejected."""

    max_connection_age_s: float = Field(0.0, ge=0)
    """Age at which clients are asked to connect again, in seconds, so that they spread over the servers
    behind a load balancer. gRPC varies it by a tenth. A stream ends a little later, after the answers to
    the frames that the server has read. The value 0 sets no limit."""

    max_connection_grace_s: float = Field(7200.0, ge=0)
    """Time that calls have to end after the age of their connection, in seconds; then they are cut off. It
    should exceed the age by a tenth and last for the longest transfer of images or models."""

    grace_s: float = Field(10.0, ge=0)
    """Time for calls to finish when the server stops, in seconds."""

    @field_validator("listen")
    @classmethod
    def _supported_socket(cls, listen: str) -> str:
        if listen.startswith(("unix:", "unix-abstract:")):
            UnixSocket.parse(listen)
        return listen

    @property
    def unix_socket(self) -> UnixSocket | None:
        """The unix socket to serve on; None for a TCP port."""
        return UnixSocket.parse(self.listen) if self.listen.startswith("unix:") else None

    @property
    def is_local(self) -> bool:
        """True if only processes of this machine reach the server."""
        return self.unix_socket is not None or self.listen.rpartition(":")[0] in _LOOPBACK

    @model_validator(mode="after")
    def _shared_memory_is_local(self) -> Self:
        if self.shared_memory and not self.is_local:
            raise ValueError(
                "BLEMISH_SHARED_MEMORY needs clients on this machine; set BLEMISH_LISTEN to a loopback "
                "address or a unix socket, or leave it out"
            )
        return self

    @property
    def socket_permissions(self) -> int:
        """Permissions of the file of a unix socket."""
        return int(self.listen_mode, 8)

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if (self.tls_certificate is None) is not (self.tls_key is None):
            raise ValueError("BLEMISH_TLS_CERTIFICATE and BLEMISH_TLS_KEY go together; set both or neither")
        return self

    @property
    def lanes(self) -> int:
        """Number of lanes of a model on a CPU."""
        return self.cpu_lanes or (os.cpu_count() or 1) + 1

    def batching(self, device: str) -> BatchingPolicy:
        """Return the batching policy for ``device``."""
        if device == "cpu":
            return BatchingPolicy(
                max_batch_size=1,
                max_queued=self.max_queued,
                # The extra lane beyond the cores shortens no frame's wait.
                max_ahead=max(1, self.lanes - 1),
                lanes=self.lanes,
            )
        return BatchingPolicy(
            self.max_batch_size, self.batch_wait_ms / 1000, self.max_queued, preparers=os.cpu_count() or 1
        )

    @field_validator("import_roots", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(Path(part).resolve() for part in value.split(os.pathsep) if part)
        return value
