# SPDX-License-Identifier: Apache-2.0
import socket
import time

import pytest

from blemish_local.address import Address, AddressUnusable, free_loopback_port, settle
from blemish_local.supervision.probes import NotYet, qdrant_answers, redis_answers


def test_a_port_that_someone_listens_on_is_refused_and_the_cure_named() -> None:
    with socket.socket() as listener:
        # As a gRPC server does, who shares its port with others if they ask.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]

        for host in ("127.0.0.1", "0.0.0.0"):
            with pytest.raises(AddressUnusable, match=rf"port {port} .* --listen {host}:0"):
                settle(Address(host, port))


def test_a_host_of_another_machine_is_refused() -> None:
    # 192.0.2.0/24 is reserved for documentation (RFC 5737).
    with pytest.raises(AddressUnusable, match=r"cannot listen on 192\.0\.2\.1:0"):
        settle(Address("192.0.2.1", 0))


def test_a_port_just_left_by_a_server_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address("127.0.0.1", listener.getsockname()[1])
        with socket.create_connection((address.host, address.port)):
            # The side that closes first keeps the port for a while (TIME_WAIT).
            listener.accept()[0].close()

    assert settle(address) == address


async def test_a_probe_of_a_port_without_a_server_says_so_soon() -> None:
    # Not DEADLINE_EXCEEDED: the probe did not wait for it to appear.
    with pytest.raises(NotYet, match="UNAVAILABLE"):
        await qdrant_answers(f"127.0.0.1:{free_loopback_port()}")


async def test_a_probe_of_a_redis_that_is_not_there_says_so_soon() -> None:
    url = f"redis://127.0.0.1:{free_loopback_port()}/0"
    took_s = []
    for _ in range(3):
        begin = time.monotonic()
        with pytest.raises(NotYet):
            await redis_answers(url)
        took_s.append(time.monotonic() - begin)

    # redis-py's own retries would wait for more than a second.
    assert min(took_s) < 0.5
