# SPDX-License-Identifier: Apache-2.0
"""A test whether a server uses TLS, for the message of a connection that failed without it."""

import contextlib
import re
import socket
import ssl

_TIMEOUT_S = 2.0
_SCHEME = re.compile(r"dns:(?:///)?|ipv[46]:", re.IGNORECASE)


def answers_with_tls(target: str, timeout_s: float = _TIMEOUT_S) -> bool:
    """Return whether a server at a target completes a TLS handshake, with any certificate.

    Args:
        target: target as gRPC takes it, whose first address is tried.
        timeout_s: longest time to connect, and for each step of the handshake, in seconds.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        contextlib.suppress(OSError, ValueError),  # among them errors of the handshake
        _connect(target, timeout_s) as plain,
        context.wrap_socket(plain),
    ):
        return True
    return False


def _connect(target: str, timeout_s: float) -> socket.socket:
    """Return a connection to a target.

    Raises:
        OSError: if it does not accept one.
        ValueError: if the target is malformed.
    """
    if target.startswith("unix:"):
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(timeout_s)
        try:
            connected.connect(target.removeprefix("unix:").removeprefix("//"))
        except OSError:
            connected.close()
            raise
        return connected
    host, _, port = _SCHEME.sub("", target, count=1).split(",")[0].rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout_s)
