# SPDX-License-Identifier: Apache-2.0
"""The HTTP endpoint that Prometheus scrapes."""

from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, disable_created_metrics, start_http_server


class MetricsServer:
    """A server of ``GET /metrics``, with threads of its own."""

    def __init__(self, listen: str, registry: CollectorRegistry) -> None:
        """Listen on HOST:PORT; port 0 takes a free one.

        Raises:
            OSError: if the address is taken or does not belong to this machine.
        """
        disable_created_metrics()  # type: ignore[no-untyped-call]  # upstream has no annotation
        host, _, port = listen.rpartition(":")
        self._server: WSGIServer
        self._server, self._thread = start_http_server(int(port), host.strip("[]"), registry)
        self.address = f"{host}:{self._server.server_port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
