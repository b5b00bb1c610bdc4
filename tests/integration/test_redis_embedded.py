# SPDX-License-Identifier: Apache-2.0
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import kombu
import pytest
import redis

from blemish_local.address import Address
from blemish_local.data_directory import DataDirectory, claim
from blemish_local.options import resolve
from blemish_local.stack import compose
from blemish_local.supervision.service import ServiceProcess


@dataclass(frozen=True)
class EmbeddedRedis:
    """A running Redis of the embedded stack."""

    data: DataDirectory
    service: ServiceProcess
    url: str


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    # The path is too long for a unix socket, and contains characters special to a configuration file.
    data = DataDirectory(tmp_path / 'a "quoted" name with spaces' / ("long" * 25))
    with claim(data) as held:
        environment = {"PATH": os.environ["PATH"]}
        stack = compose(resolve(environment), data, Address("127.0.0.1", 0))
        service = ServiceProcess(stack.stages[0][0], held)
        await service.start()
        yield EmbeddedRedis(data, service, stack.variables["REDIS_URL"])
        assert await service.stop(grace_s=10)


async def test_url_works_for_redis_and_celery_only_with_its_password(
    embedded: EmbeddedRedis,
) -> None:
    with redis.Redis.from_url(embedded.url) as client:
        assert client.ping()
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    with kombu.Connection(embedded.url) as broker:
        broker.ensure_connection(max_retries=1)
        assert broker.connected
    stranger = "redis://" + embedded.url.partition("@")[2]
    with redis.Redis.from_url(stranger) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    with kombu.Connection(stranger) as broker, pytest.raises(kombu.exceptions.OperationalError):
        broker.ensure_connection(max_retries=1)


async def test_killed_redis_loses_no_write(embedded: EmbeddedRedis) -> None:
    with redis.Redis.from_url(embedded.url) as client:
        client.rpush("jobs", *range(1000))
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
    await embedded.service.ended()
    assert embedded.service.exit_status() == "it was killed by SIGKILL"

    await embedded.service.start()

    with redis.Redis.from_url(embedded.url) as client:
        assert [int(job) for job in client.lrange("jobs", 0, -1)] == list(range(1000))


async def test_all_files_are_in_the_data_folder(embedded: EmbeddedRedis) -> None:
    log = embedded.data.logs / "redis.log"

    assert "Ready to accept connections" in log.read_text()
    assert any((embedded.data.redis / "appendonlydir").iterdir())
