# SPDX-License-Identifier: Apache-2.0
"""Checks of Redis: that it answers, that it can hold the jobs, and that it will keep them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError, ResponseError, WatchError
from redis.exceptions import TimeoutError as TimedOut
from redis.sentinel import MasterNotFoundError

from blemish_core.platform.errors import FailedPrecondition, Unavailable
from blemish_core.platform.redis_address import NO_CLUSTER, RedisAddress

_INSPECT_EVERY_S = 60.0
_KEEPS_ALL = "noeviction"


@contextmanager
def redis_errors_as_unavailable() -> Iterator[None]:
    """Translate connection failures and errors of Redis into Unavailable."""
    try:
        yield
    except MasterNotFoundError as error:
        # Its own text contains the settings of each connection.
        raise Unavailable(
            "no Sentinel names a master of Redis, so jobs wait; check REDIS_URL and the Sentinels",
            dependency="redis",
        ) from error
    except (ConnectionLost, TimedOut) as error:
        raise Unavailable(
            f"Redis does not answer, so jobs wait; check REDIS_URL ({error})", dependency="redis"
        ) from error
    except WatchError:
        raise
    except RedisError as error:
        if str(error).startswith("MISCONF"):
            # With this error Redis rejects changes once it could not write its own files.
            raise Unavailable(
                f"Redis cannot write to its disk ({error}); free some space there", dependency="redis"
            ) from error
        # For example loading after a restart, out of memory or read-only.
        raise Unavailable(f"Redis rejected the command: {error}", dependency="redis") from error


class RedisCheck:
    """Checks of one Redis, for one process. Safe to share between threads."""

    def __init__(self, address: RedisAddress, client: redis.Redis) -> None:
        self._address = address
        self._redis = client
        self._lock = threading.Lock()
        self._warnings: tuple[str, ...] = ()
        self._inspect_at_s: float | None = None

    @classmethod
    def connect(cls, url: str, timeout_s: float = 5.0) -> "RedisCheck":
        """Create a check whose connection opens at the first call."""
        address = RedisAddress.parse(url)
        client = address.client(retries=False, socket_connect_timeout=2, socket_timeout=timeout_s)
        return cls(address, client)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Settings of Redis that endanger jobs, as the last ``ping`` that looked found them."""
        return self._warnings

    def ping(self) -> None:
        """Check that Redis answers; look at its settings at first, after a failure and every minute.

        Raises:
            Unavailable: if it does not answer or cannot be written to.
            FailedPrecondition: if it is part of a cluster.
        """
        with self._lock:
            try:
                with redis_errors_as_unavailable():
                    self._redis.ping()
                    if self._inspect_at_s is None or time.monotonic() >= self._inspect_at_s:
                        self._inspect()
            except Exception:
                self._inspect_at_s = None
                raise
            self._inspect_at_s = self._inspect_at_s or time.monotonic() + _INSPECT_EVERY_S

    def _inspect(self) -> None:
        self._inspect_at_s = None
        if self._info("cluster").get("cluster_enabled"):
            raise FailedPrecondition(NO_CLUSTER)
        if self._info("replication").get("role") == "slave":
            raise Unavailable(
                f"the Redis at {self._address} is a replica, which accepts no writes; set REDIS_URL to its "
                "master or to Sentinel",
                dependency="redis",
            )
        self._warnings = (*self._of_encryption(), *self._of_eviction(), *self._of_persistence())

    def _of_encryption(self) -> Iterator[str]:
        if not self._address.is_verified:
            yield (
                "the certificate of Redis is not verified, so another machine can read its password; "
                "remove ssl_cert_reqs from REDIS_URL and name the authority with ssl_ca_certs"
            )

    def _of_eviction(self) -> Iterator[str]:
        policy = self._info("memory").get("maxmemory_policy", _KEEPS_ALL)
        if policy != _KEEPS_ALL:
            yield (
                f"Redis deletes jobs and leases when its memory is full (maxmemory-policy {policy}); "
                f"set maxmemory-policy to {_KEEPS_ALL}"
            )

    def _of_persistence(self) -> Iterator[str]:
        state = self._info("persistence")
        if not state:
            return
        if state.get("aof_enabled"):
            if state.get("aof_last_write_status", "ok") != "ok":
                yield "Redis cannot write its append-only file, so a crash loses jobs; see its log"
        elif self._saves() is False:
            yield (
                'Redis keeps jobs in memory only (appendonly no, save ""), so its restart loses them; set '
                "appendonly to yes"
            )
        elif state.get("rdb_last_bgsave_status", "ok") != "ok":
            yield "Redis cannot write its snapshot, so a crash loses jobs; see its log"

    def _saves(self) -> bool | None:
        """Return whether Redis writes snapshots; None if it does not reveal that."""
        try:
            found: Any = self._redis.config_get("save")
        except ResponseError:
            return None  # managed services forbid the command
        return bool(found["save"]) if "save" in found else None

    def _info(self, section: str) -> dict[str, Any]:
        try:
            found: Any = self._redis.info(section)
        except ResponseError:
            return {}  # an access list may forbid the command
        return dict(found)
