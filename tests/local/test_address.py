# SPDX-License-Identifier: Apache-2.0
import pytest

from blemish_local.address import Address, parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:50051", Address("127.0.0.1", 50051)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:65535", Address("::1", 65535)),
    ],
)
def test_address_survives_the_round_trip(text: str, address: Address) -> None:
    assert parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", ":", "host", "host:", ":1", "host:-1", "host:1x", "host:65536", "::1:1", "h:²"]
)
def test_invalid_address_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not HOST:PORT"):
        parse(text)


def test_wildcard_address_is_reached_through_loopback() -> None:
    assert Address("0.0.0.0", 1).to_connect == Address("127.0.0.1", 1)
    assert Address("::", 1).to_connect == Address("::1", 1)
    assert Address("10.0.0.1", 1).to_connect == Address("10.0.0.1", 1)
    assert Address("0.0.0.0", 1).is_open_to_others
    assert not Address("127.0.0.1", 1).is_open_to_others
