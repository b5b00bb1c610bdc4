# SPDX-License-Identifier: Apache-2.0
"""The running workers, kept up to date by their heartbeats.

``blemish:staff`` is a hash of the workers' records by name. ``blemish:staff:seen`` is a sorted set of
their names by the time of the last heartbeat, measured by Redis's clock.
"""

from datetime import datetime
from typing import Any

import redis
from pydantic import BaseModel, ConfigDict, ValidationError

from blemish_core.jobs.training_rates import TrainingRates
from blemish_core.platform.redis_address import RedisAddress
from blemish_core.platform.redis_check import redis_errors_as_unavailable

_RECORDS, _SEEN = "blemish:staff", "blemish:staff:seen"
_LIVE_S = 20
_EXPIRY_S = 60

# KEYS: records, seen. ARGV: name, record, expiry in seconds. Returns the names of expired workers.
_HEARTBEAT = """
local now = tonumber(redis.call('TIME')[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], now, ARGV[1])
local expired = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[3]))
for _, name in ipairs(expired) do
  redis.call('HDEL', KEYS[1], name)
  redis.call('ZREM', KEYS[2], name)
end
return expired
"""

# KEYS: records, seen. ARGV: seconds since the last heartbeat.
_LIST = """
local now = tonumber(redis.call('TIME')[1])
local names = redis.call('ZRANGEBYSCORE', KEYS[2], now - tonumber(ARGV[1]), '+inf')
if #names == 0 then return {} end
return redis.call('HMGET', KEYS[1], unpack(names))
"""


class WorkerInfo(BaseModel):
    """A worker's record."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Process of the worker, ``host:pid``."""
    version: str
    queues: tuple[str, ...]
    devices: tuple[str, ...]
    """Device of each slot; a slot runs one job at a time."""
    jobs: tuple[str, ...] = ()
    """Ids of its running jobs."""
    started: datetime
    canary: datetime | None = None
    """Time at which it last received a canary task."""
    rates: tuple[TrainingRates, ...] = ()
    """Measured speed of each of its devices; empty until it is known."""


class WorkerRegistry:
    """The workers of one Redis. Safe to share between threads."""

    def __init__(self, client: redis.Redis) -> None:
        self._heartbeat = client.register_script(_HEARTBEAT)
        self._list = client.register_script(_LIST)
        self._redis = client

    @classmethod
    def connect(cls, url: str) -> "WorkerRegistry":
        """Create a registry whose connection opens at the first call."""
        return cls(RedisAddress.parse(url).client(socket_connect_timeout=2, socket_timeout=5))

    def heartbeat(self, worker: WorkerInfo) -> list[str]:
        """Add or refresh a worker; remove those without a heartbeat for a minute and return their names."""
        with redis_errors_as_unavailable():
            expired: Any = self._heartbeat(
                [_RECORDS, _SEEN], [worker.name, worker.model_dump_json(), _EXPIRY_S]
            )
        return [name.decode() for name in expired]

    def remove(self, name: str) -> None:
        """Remove a worker that is shutting down."""
        with redis_errors_as_unavailable():
            self._redis.hdel(_RECORDS, name)
            self._redis.zrem(_SEEN, name)

    def workers(self) -> list[WorkerInfo]:
        """Return the workers with a heartbeat within the last 20 s, by name."""
        with redis_errors_as_unavailable():
            records: Any = self._list([_RECORDS, _SEEN], [_LIVE_S])
        workers = []
        for record in records:
            try:
                workers.append(WorkerInfo.model_validate_json(record or b""))
            except ValidationError:
                continue  # written by an incompatible build
        return sorted(workers, key=lambda worker: worker.name)
