# SPDX-License-Identifier: Apache-2.0
"""Exit with code 0 if the gRPC server at an address is serving: ``serving.py HOST:PORT`` or ``unix:PATH``.

For a server with TLS, only the handshake is checked, because the names in its certificate are unknown here.
"""

import os
import socket
import ssl
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_TIMEOUT_S = 3.0


def main(address: str) -> int:
    """Check the server and return the exit code."""
    if os.environ.get("BLEMISH_TLS_CERTIFICATE"):
        try:
            _shake_hands(address)
        except OSError as error:
            print(f"{address} does not answer by TLS: {error}", file=sys.stderr)
            return 1
        return 0
    # A proxy from the environment is not meant for connections inside the container.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S
            )
        except grpc.RpcError as error:
            print(f"{address} does not answer: {error.code().name}", file=sys.stderr)
            return 1
    if response.status != health_pb2.HealthCheckResponse.SERVING:
        print(f"{address} answers but is not serving", file=sys.stderr)
        return 1
    return 0


def _shake_hands(address: str) -> None:
    """Perform a TLS handshake with a server, whatever its certificate."""
    if not address.startswith("unix:"):
        host, _, port = address.rpartition(":")
        ssl.get_server_certificate((host, int(port)), timeout=_TIMEOUT_S)
        return
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.connect(address.removeprefix("unix:"))
        context.wrap_socket(connection).close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
