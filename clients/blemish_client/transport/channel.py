# SPDX-License-Identifier: Apache-2.0
"""The gRPC options of every channel to a server, blocking or asyncio."""

from dataclasses import dataclass

from blemish_client.transport.target import is_on_this_machine

# Longest time to open a connection, TLS handshake included.
_CONNECT_TIMEOUT_S = 5.0
# Schemes of targets that may stand for several servers.
_SEVERAL_ADDRESSES = ("dns:", "ipv4:", "ipv6:")


@dataclass(frozen=True)
class Keepalive:
    """Pings that detect a link on which nothing arrives and no error either."""

    interval_s: float = 10.0
    """Time without data after which a client with running calls sends a ping, in seconds.

    Older servers refuse frequent pings on a quiet call. The client then connects again and doubles the
    interval.
    """
    timeout_s: float = 18.0
    """Time for the answer to a ping, in seconds. Then the connection is closed and its calls fail.

    On a slow link a ping waits behind the frames that are being sent. The limit must exceed the time to
    send what the system buffers, a few MB.
    """

    @property
    def detects_within_s(self) -> float:
        """Longest time from the last byte of a silent link to the failure of its calls, in seconds."""
        return self.interval_s + self.timeout_s


def channel_options(target: str, keepalive: Keepalive) -> list[tuple[str, str | int]]:
    """Return the options of a channel to ``target``."""
    timeout_ms = round(1000 * keepalive.timeout_s)
    options: list[tuple[str, str | int]] = [
        # The server limits messages in both directions.
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # By default gRPC waits up to two minutes before it reconnects.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # Despite its name, this limits the time of each attempt to connect. It delays no attempt.
        ("grpc.min_reconnect_backoff_ms", round(1000 * _CONNECT_TIMEOUT_S)),
        ("grpc.keepalive_time_ms", round(1000 * keepalive.interval_s)),
        # TCP closes a connection whose data is not acknowledged for this time.
        ("grpc.keepalive_timeout_ms", timeout_ms),
        # gRPC 1.85 only obeys this limit for pings, and its default is a minute.
        ("grpc.http2.ping_timeout_ms", timeout_ms),
        # By default gRPC stops to ping after two pings without data.
        ("grpc.http2.max_pings_without_data", 0),
    ]
    if is_on_this_machine(target):
        # An HTTP proxy from the environment cannot reach a server on this machine.
        options.append(("grpc.enable_http_proxy", 0))
    if target.startswith("unix:"):
        # gRPC would verify the certificate of the server against the path.
        options.append(("grpc.default_authority", "localhost"))
    if target.startswith(_SEVERAL_ADDRESSES):
        options.append(("grpc.lb_policy_name", "round_robin"))
    return options
