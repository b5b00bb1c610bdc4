# SPDX-License-Identifier: Apache-2.0
import ssl
from pathlib import Path

import kombu
import pytest
import trustme

from blemish_core.platform.redis_address import RedisAddress, RedisTls


@pytest.mark.parametrize(
    ("url", "address", "text"),
    [
        ("redis://localhost:6379/0", RedisAddress((("localhost", 6379),)), "localhost:6379"),
        ("redis://broker", RedisAddress((("broker", 6379),)), "broker:6379"),
        ("redis://[::1]:7000/3", RedisAddress((("::1", 7000),), database=3), "[::1]:7000"),
        (
            "redis://jobs:p%40ss%2F@broker/2",
            RedisAddress((("broker", 6379),), username="jobs", password="p@ss/", database=2),
            "broker:6379",
        ),
        (
            "rediss://:pw@broker",
            RedisAddress((("broker", 6379),), password="pw", tls=RedisTls()),
            "broker:6379",
        ),
        (
            "rediss://broker?ssl_cert_reqs=none",
            RedisAddress((("broker", 6379),), tls=RedisTls(verify=False)),
            "broker:6379",
        ),
        (
            "rediss://broker?ssl_cert_reqs=CERT_REQUIRED&ssl_check_hostname=false",
            RedisAddress((("broker", 6379),), tls=RedisTls(check_hostname=False)),
            "broker:6379",
        ),
        (
            "unix:///run/redis.sock?db=4",
            RedisAddress(path="/run/redis.sock", database=4),
            "unix:/run/redis.sock",
        ),
        (
            "redis+sentinel://:pw@a,b:7000,[::1]/jobs/1?sentinel_password=s%26t",
            RedisAddress(
                (("a", 26379), ("b", 7000), ("::1", 26379)),
                password="pw",
                database=1,
                master="jobs",
                sentinel_password="s&t",
            ),
            "jobs of a:26379,b:7000,[::1]:26379",
        ),
        (
            "rediss+sentinel://a/jobs",
            RedisAddress((("a", 26379),), master="jobs", tls=RedisTls()),
            "jobs of a:26379",
        ),
    ],
)
def test_url_is_parsed_and_printed_without_credentials(url: str, address: RedisAddress, text: str) -> None:
    assert RedisAddress.parse(url) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://broker?socket_timeout=5", "option socket_timeout is not supported by both"),
        ("redis://broker?health_check_interval=secret", "option health_check_interval"),
        ("redis://broker?virtual_host=1", "option virtual_host"),
        ("redis://broker?db=1", "write the number as the path"),
        ("rediss://broker?ssl_ciphers=ALL", "option ssl_ciphers"),
        ("rediss://broker?ssl_min_version=TLSv1", "option ssl_min_version"),
        ("rediss://broker?SSL_CERT_REQS=none", "option SSL_CERT_REQS"),
        ("rediss://broker?ssl_cert_reqs=maybe", "use required or none"),
        ("rediss://broker?ssl_cert_reqs=optional", "use required or none"),
        ("rediss://broker?ssl_check_hostname=perhaps", "use true or false"),
        ("rediss://broker?ssl_cert_reqs=none&ssl_cert_reqs=required", "is given twice"),
        ("rediss://broker?ssl_ca_certs=/no/such/file", "/no/such/file, cannot be used: No such file"),
        ("rediss://broker?ssl_keyfile=/key", "needs ssl_certfile"),
        ("redis://broker?ssl_cert_reqs=none", "needs TLS; use rediss://"),
        ("redis://broker?sentinel_password=secret", "is for Sentinel"),
        ("redis://broker?secret", "NAME=VALUE"),
        ("redis://broker/secret", "database is not a number"),
        ("redis://broker/-1", "database is not a number"),
        ("redis://broker/²", "database is not a number"),
        ("redis://:se#cret@broker", "write %23"),
        ("redis://:se/cret@broker", "not valid"),
        ("redis://:secret@broker:port", "such as redis://HOST:6379/0"),
        ("redis://broker:0", "such as redis://HOST:6379/0"),
        ("redis://", "such as redis://HOST:6379/0"),
        ("redis://[::1", "such as redis://HOST:6379/0"),
        ("http://broker", "not a valid URL of Redis"),
        ("broker:6379", "not a valid URL of Redis"),
        ("", "not a valid URL of Redis"),
        ("amqp://broker", "not a valid URL of Redis"),
        ("unix://run/redis.sock", "starts with a slash"),
        ("unix:///", "starts with a slash"),
        ("sentinel://a:26379;sentinel://b:26379", "redis[+]sentinel://HOST:26379"),
        ("redis+sentinel://a:26379", "does not name the master"),
        ("redis+sentinel://a/jobs?master_name=x", "option master_name"),
        ("redis+cluster://a", "Redis Cluster is not supported"),
        ("rediss+cluster://a", "Redis Cluster is not supported"),
        ("redis://a:6379,b:6379", "Redis Cluster is not supported"),
    ],
)
def test_unsupported_url_is_rejected_with_its_reason(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        RedisAddress.parse(url)
    assert "secret" not in str(caught.value)
    assert "cret@" not in str(caught.value)


def test_files_of_tls_are_checked(tmp_path: Path) -> None:
    authority, other = trustme.CA(), tmp_path / "other.pem"
    issued = authority.issue_cert("client")
    roots, chain, key = (tmp_path / name for name in ("roots.pem", "chain.pem", "key.pem"))
    authority.cert_pem.write_to_path(roots)
    issued.cert_chain_pems[0].write_to_path(chain)
    issued.private_key_pem.write_to_path(key)
    other.write_text("no certificate")

    parsed = RedisAddress.parse(f"rediss://b?ssl_ca_certs={roots}&ssl_certfile={chain}&ssl_keyfile={key}")
    assert parsed.tls == RedisTls(str(roots), str(chain), str(key))
    with pytest.raises(ValueError, match=r"other\.pem, cannot be used: it is not valid PEM"):
        RedisAddress.parse(f"rediss://b?ssl_ca_certs={other}")
    with pytest.raises(ValueError, match="ssl_certfile and ssl_keyfile"):
        RedisAddress.parse(f"rediss://b?ssl_certfile={other}&ssl_keyfile={key}")


@pytest.mark.parametrize("host", ["broker:7000", "[::1]:7000"])
def test_celery_connects_to_the_same_redis_with_the_same_verification(host: str) -> None:
    address = RedisAddress.parse(f"rediss://jobs:p%40ss%2F%3B%23@{host}/2")

    settings = address.celery_settings(socket_timeout=5)

    with kombu.Connection(settings["broker_url"], ssl=settings["broker_use_ssl"]) as broker:
        assert (broker.hostname, broker.port) == address.hosts[0]
        assert (broker.userid, broker.password, broker.virtual_host) == ("jobs", "p@ss/;#", "2")
        assert isinstance(broker.ssl, dict)
        assert broker.ssl["ssl_cert_reqs"] is ssl.CERT_REQUIRED
        assert broker.ssl["ssl_check_hostname"] is True
    assert settings["broker_transport_options"] == {"socket_timeout": 5}
    client = address.client().connection_pool.connection_kwargs
    assert client["ssl_cert_reqs"] is ssl.CERT_REQUIRED
    assert client["ssl_check_hostname"] is True


def test_plain_redis_is_reached_without_tls() -> None:
    assert RedisAddress.parse("redis://broker").celery_settings()["broker_use_ssl"] is None
