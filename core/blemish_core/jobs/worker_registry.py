# SPDX-License-Identifier: Apache-2.0
"""Which workers there are and what they do, as each tells every few seconds.

``blemish:staff`` is a hash of what they told by name; ``blemish:staff:seen`` says when, by Redis's clock.
"""

from datetime import datetime
from typing import Any

import redis
from pydantic import BaseModel, ConfigDict, ValidationError

from blemish_core.jobs.store import redis_errors_as_unavailable

_STAFF, _SEEN = "blemish:staff", "blemish:staff:seen"
_GONE_AFTER_S = 20
_FORGOTTEN_AFTER_S = 60

# KEYS: staff, seen. ARGV: name, told, seconds. Returns the names that were forgotten.
_TELL = """
local now = tonumber(redis.call('TIME')[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], now, ARGV[1])
local gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[3]))
for _, name in ipairs(gone) do
  redis.call('HDEL', KEYS[1], name)
  redis.call('ZREM', KEYS[2], name)
end
return gone
"""

# KEYS: staff, seen. ARGV: seconds.
_LIST = """
local now = tonumber(redis.call('TIME')[1])
local names = redis.call('ZRANGEBYSCORE', KEYS[2], now - tonumber(ARGV[1]), '+inf')
if #names == 0 then return {} end
return redis.call('HMGET', KEYS[1], unpack(names))
"""


class Worker(BaseModel):
    """What a worker tells of itself."""

    model_config = ConfigDict(frozen=True)

    name: str
    """host:pid"""
    version: str
    queues: tuple[str, ...]
    devices: tuple[str, ...]
    """Of its slots, one job at a time each."""
    jobs: tuple[str, ...] = ()
    """Those it works on."""
    started: datetime
    canary: datetime | None = None
    """When a task last came through to it, of those it sends itself."""


class WorkerRegistry:
    """The workers of one Redis. Safe to share between threads."""

    def __init__(self, client: redis.Redis) -> None:
        self._tell = client.register_script(_TELL)
        self._list = client.register_script(_LIST)
        self._redis = client

    @classmethod
    def connect(cls, url: str) -> "WorkerRegistry":
        """Prepare a connection; nothing is sent before the first call."""
        return cls(redis.Redis.from_url(url, socket_connect_timeout=2, socket_timeout=5))

    def heartbeat(self, worker: Worker) -> list[str]:
        """Say that a worker is there; return the names of those that have not been for a minute."""
        with redis_errors_as_unavailable():
            gone: Any = self._tell(
                [_STAFF, _SEEN], [worker.name, worker.model_dump_json(), _FORGOTTEN_AFTER_S]
            )
        return [name.decode() for name in gone]

    def remove(self, name: str) -> None:
        """Say that a worker goes."""
        with redis_errors_as_unavailable():
            self._redis.hdel(_STAFF, name)
            self._redis.zrem(_SEEN, name)

    def workers(self) -> list[Worker]:
        """Those that have told of themselves within 20 s, by name."""
        with redis_errors_as_unavailable():
            told: Any = self._list([_STAFF, _SEEN], [_GONE_AFTER_S])
        workers = []
        for each in told:
            try:
                workers.append(Worker.model_validate_json(each or b""))
            except ValidationError:
                continue  # of another build
        return sorted(workers, key=lambda worker: worker.name)
