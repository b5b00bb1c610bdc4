# SPDX-License-Identifier: Apache-2.0
import pytest

from blemish_client import Client
from blemish_client.transport.credentials import Credentials


def test_token_leaves_this_machine_only_with_tls() -> None:
    shown = Credentials("secret")
    for target in ("localhost:1", "127.0.0.1:1", "[::1]:1", "unix:/tmp/x"):
        assert shown.channel(target) is None
    for target in ("line-1:1", "10.0.0.1:1", "localhost.example.com:1", "128.0.0.1:1"):
        with pytest.raises(ValueError, match="in plaintext"):
            shown.channel(target)
        assert Credentials("secret", tls=True).channel(target) is not None
    with pytest.raises(ValueError, match="in plaintext"):
        Client("line-1:1", credentials=shown)


def test_token_is_not_in_the_repr() -> None:
    assert "secret" not in repr(Credentials("secret"))


def test_metadata_has_the_token() -> None:
    assert Credentials().metadata == ()
    assert Credentials("secret").metadata == (("authorization", "Bearer secret"),)
