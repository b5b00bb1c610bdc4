# SPDX-License-Identifier: Apache-2.0
"""Exit with 0 if the gRPC server at HOST:PORT says that it serves: ``serving.py HOST:PORT``.

Of one that speaks TLS no more is asked than a handshake: whom its certificate is for is not known here.
"""

import os
import ssl
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_ANSWER_WITHIN_S = 3.0


def main(address: str) -> int:
    if os.environ.get("BLEMISH_TLS_CERTIFICATE"):
        host, _, port = address.rpartition(":")
        try:
            ssl.get_server_certificate((host, int(port)), timeout=_ANSWER_WITHIN_S)
        except OSError as error:
            print(f"{address} does not answer by TLS: {error}", file=sys.stderr)
            return 1
        return 0
    # A proxy from the environment is for the world outside this container.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=_ANSWER_WITHIN_S
            )
        except grpc.RpcError as error:
            print(f"{address} does not answer: {error.code().name}", file=sys.stderr)
            return 1
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        print(f"{address} answers, and does not serve", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
