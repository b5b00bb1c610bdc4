# SPDX-License-Identifier: Apache-2.0
import pytest
from tests.support.proxies import EXCEPTIONS, VARIABLES

from blemish_client.transport.target import is_on_this_machine, proxy_variable


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *EXCEPTIONS):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "target",
    [
        "localhost:50051",
        "LOCALHOST:50051",
        "localhost",
        "localhost.:50051",
        "127.0.0.1:50051",
        "127.8.9.10:50051",
        "127.1:50051",
        "[::1]:50051",
        "[::ffff:127.0.0.1]:50051",
        "0.0.0.0:50051",
        "dns:///localhost:50051",
        "dns:localhost:50051",
        "ipv4:127.0.0.1:50051",
        "ipv4:127.0.0.1:50051,127.0.0.2:50051",
        "ipv6:[::1]:50051",
        "unix:/run/blemish.sock",
        "unix:///run/blemish.sock",
        "unix:blemish.sock",
        "unix-abstract:blemish",
    ],
)
def test_target_on_this_machine_is_recognized(target: str) -> None:
    assert is_on_this_machine(target)


@pytest.mark.parametrize(
    "target",
    [
        "line-server:50051",
        "127.example.com:50051",
        "localhost.example.com:50051",
        "localhost@example.com:50051",
        "10.0.0.1:50051",
        "[2001:db8::1]:50051",
        "dns:///line-server:50051",
        "dns://192.0.2.1/localhost:50051",
        "ipv4:127.0.0.1:50051,10.0.0.1:50051",
        "xds:///localhost",
        "[::1:50051",
        "",
    ],
)
def test_other_target_is_not_on_this_machine(target: str) -> None:
    assert not is_on_this_machine(target)


@pytest.mark.parametrize(
    ("environment", "target", "variable"),
    [
        ({}, "line-server:50051", ""),
        ({"http_proxy": "http://proxy:1"}, "line-server:50051", "http_proxy"),
        ({"http_proxy": "http://proxy:1"}, "localhost:50051", ""),
        ({"HTTP_PROXY": "http://proxy:1"}, "line-server:50051", ""),  # gRPC reads the lower case only
        ({"http_proxy": "http://a:1", "grpc_proxy": "http://b:1"}, "line-server:50051", "grpc_proxy"),
        ({"http_proxy": "http://a:1", "https_proxy": "http://b:1"}, "line-server:50051", "https_proxy"),
        ({"http_proxy": "http://a:1", "no_proxy": "other, .plant"}, "line.plant:50051", ""),
        ({"http_proxy": "http://a:1", "no_proxy": "other"}, "line.plant:50051", "http_proxy"),
        ({"http_proxy": "http://a:1", "no_proxy": "10.0.0.0/8"}, "10.1.2.3:50051", ""),
        ({"http_proxy": "http://a:1", "no_proxy": "x", "no_grpc_proxy": "y"}, "x:50051", "http_proxy"),
    ],
)
def test_variable_of_the_proxy_in_use_is_named(
    environment: dict[str, str], target: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_variable(target) == variable
