# SPDX-License-Identifier: Apache-2.0
import socket
import time

import pytest

from blemish_local.address import Address, AddressUnusable, free_loopback_port, settle
from blemish_local.supervision.probes import NotReady, qdrant_answers, redis_answers


def test_taken_port_is_rejected_with_a_remedy() -> None:
    with socket.socket() as listener:
        # gRPC servers set this option too, and then share their port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]

        for host in ("127.0.0.1", "0.0.0.0"):
            with pytest.raises(AddressUnusable, match=rf"port {port} .* --listen {host}:0"):
                settle(Address(host, port))


def test_host_of_another_machine_is_rejected() -> None:
    # 192.0.2.0/24 is reserved for documentation (RFC 5737).
    with pytest.raises(AddressUnusable, match=r"cannot listen on 192\.0\.2\.1:0"):
        settle(Address("192.0.2.1", 0))


def test_port_of_a_stopped_server_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address("127.0.0.1", listener.getsockname()[1])
        with socket.create_connection((address.host, address.port)):
            # The side that closes first keeps the port for a while (TIME_WAIT).
            listener.accept()[0].close()

    assert settle(address) == address


async def test_probe_of_a_closed_port_fails_quickly() -> None:
    # UNAVAILABLE, unlike DEADLINE_EXCEEDED, means that the probe did not wait.
    with pytest.raises(NotReady, match="UNAVAILABLE"):
        await qdrant_answers(f"127.0.0.1:{free_loopback_port()}")


async def test_probe_of_an_absent_redis_fails_quickly() -> None:
    url = f"redis://127.0.0.1:{free_loopback_port()}/0"
    took_s = []
    for _ in range(3):
        begin = time.monotonic()
        with pytest.raises(NotReady):
            await redis_answers(url)
        took_s.append(time.monotonic() - begin)

    # redis-py's own retries would wait for more than a second.
    assert min(took_s) < 0.5
