# SPDX-License-Identifier: Apache-2.0
"""The address of Redis in a URL, and the clients of redis-py and Celery that are made from it.

redis-py and Celery read the same URL differently: Celery skips the verification of certificates, and each
ignores or rejects options of the other. So neither gets the URL: it is parsed here for both.
"""

import ssl
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import SplitResult, quote, unquote, urlsplit

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

DEFAULT_URL = "redis://localhost:6379/0"
_PORT = 6379
_SENTINEL_PORT = 26379
_EXAMPLE = "a URL such as redis://HOST:6379/0"
_SENTINEL_FORM = "redis+sentinel://HOST:26379,HOST:26379/MASTER/0"
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")
_CERT_REQS = {"required": True, "cert_required": True, "none": False, "cert_none": False}
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster", "redis-cluster", "rediscluster")

NO_CLUSTER = (
    "Redis Cluster is not supported, because one job's keys lie on several of its nodes; "
    f"use a single Redis or Sentinel ({_SENTINEL_FORM})"
)
"""Error for a Redis that is part of a cluster."""


@dataclass(frozen=True)
class RedisTls:
    """TLS to Redis. The certificate of Redis is verified unless the user switched that off."""

    ca_certs: str | None = None
    """PEM file of the authorities to trust; None means those of the system."""
    certfile: str | None = None
    """PEM file of the client's certificate."""
    keyfile: str | None = None
    """PEM file of the client's private key."""
    verify: bool = True
    check_hostname: bool = True

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of an ``SSLConnection`` of redis-py, which Celery uses too."""
        return {
            "ssl_ca_certs": self.ca_certs,
            "ssl_certfile": self.certfile,
            "ssl_keyfile": self.keyfile,
            "ssl_cert_reqs": ssl.CERT_REQUIRED if self.verify else ssl.CERT_NONE,
            "ssl_check_hostname": self.verify and self.check_hostname,
        }

    def check_files(self) -> None:
        """Raise ValueError if a file cannot be used."""
        context = ssl.create_default_context()
        if self.ca_certs:
            try:
                context.load_verify_locations(self.ca_certs)
            except OSError as error:
                raise ValueError(_unusable("ssl_ca_certs", self.ca_certs, error)) from error
        if self.certfile:
            try:
                # The empty password keeps OpenSSL from asking for one on the terminal.
                context.load_cert_chain(self.certfile, self.keyfile, password="")
            except OSError as error:
                named = f"{self.certfile}, {self.keyfile}" if self.keyfile else self.certfile
                raise ValueError(_unusable("ssl_certfile and ssl_keyfile", named, error)) from error
        elif self.keyfile:
            raise ValueError("the option ssl_keyfile needs ssl_certfile; add it, or leave both out")


@dataclass(frozen=True)
class RedisAddress:
    """A Redis: a server, or the master that Sentinels name."""

    hosts: tuple[tuple[str, int], ...] = ()
    """Host and port of the server or of each Sentinel; empty for a unix socket."""
    path: str = ""
    """Path of a unix socket."""
    username: str = ""
    password: str = ""
    database: int = 0
    master: str = ""
    """Name of the master, by which Sentinels find it; empty for a server."""
    sentinel_username: str = ""
    sentinel_password: str = ""
    tls: RedisTls | None = None
    """None connects in plaintext."""

    @classmethod
    def parse(cls, url: str) -> "RedisAddress":
        """Parse a URL.

        Args:
            url: ``redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]``, ``rediss://`` for TLS,
                ``unix:///PATH?db=N``, or ``redis+sentinel://HOST:PORT,.../MASTER[/DATABASE]`` and
                ``rediss+sentinel://``.

        Raises:
            ValueError: if the URL or one of its options is not supported, or a file that it names cannot be
                used. The message repeats no password.
        """
        try:
            parts = urlsplit(url)
            scheme = parts.scheme
        except ValueError:
            raise ValueError(f"it is not a valid URL; use {_EXAMPLE}") from None
        if scheme in _CLUSTER_SCHEMES:
            raise ValueError(NO_CLUSTER)
        if scheme == "sentinel":
            raise ValueError(f"this is Celery's form of a Sentinel URL; use {_SENTINEL_FORM}")
        options = _options(parts)
        if scheme == "unix":
            return _parse_socket(parts, options)
        if scheme in ("redis", "rediss"):
            return _parse_server(parts, options)
        if scheme in ("redis+sentinel", "rediss+sentinel"):
            return _parse_sentinels(parts, options)
        raise ValueError(f"it is not a valid URL of Redis; use {_EXAMPLE}, rediss:// or unix://")

    def __str__(self) -> str:
        """The address without credentials."""
        if self.path:
            return f"unix:{self.path}"
        hosts = ",".join(f"{_bracketed(host)}:{port}" for host, port in self.hosts)
        return f"{self.master} of {hosts}" if self.master else hosts

    @property
    def is_verified(self) -> bool:
        """False if TLS is used without a verified certificate."""
        return self.tls is None or self.tls.verify

    def client(self, *, retries: bool = True, **timeouts: float) -> redis.Redis:
        """Create a client of redis-py that connects with the first command.

        Args:
            retries: False sends each command once, for callers that repeat it themselves.
            timeouts: timeouts of the connections, in seconds.
        """
        options = {**self._login, **timeouts, **({} if retries else {"retry": None})}
        if self.path:
            return redis.Redis(unix_socket_path=self.path, **options)
        if not self.master:
            ((host, port),) = self.hosts
            return redis.Redis(host, port, **options, **self._tls)
        sentinel: Any = redis.sentinel.Sentinel
        own = {**self._sentinel_login, **self._tls, **timeouts, "retry": _once_more()}
        found = sentinel(list(self.hosts), sentinel_kwargs=own).master_for(
            self.master, **options, **self._tls
        )
        return cast(redis.Redis, found)

    def async_client(self, **timeouts: float) -> redis.asyncio.Redis:
        """Create a client of redis-py for asyncio that connects with the first command."""
        options = {**self._login, **timeouts}
        if self.path:
            return redis.asyncio.Redis(unix_socket_path=self.path, **options)
        if not self.master:
            ((host, port),) = self.hosts
            return redis.asyncio.Redis(host=host, port=port, **options, **self._tls)
        sentinel: Any = redis.asyncio.sentinel.Sentinel
        own = {**self._sentinel_login, **self._tls, **timeouts, "retry": _once_more_async()}
        found = sentinel(list(self.hosts), sentinel_kwargs=own).master_for(
            self.master, **options, **self._tls
        )
        return cast(redis.asyncio.Redis, found)

    def celery_settings(self, **transport_options: object) -> dict[str, Any]:
        """Return the settings of a Celery application that name this Redis as its broker."""
        login = f"{quote(self.username, safe='')}:{quote(self.password, safe='')}@" if self.password else ""
        if self.path:
            url = f"redis+socket://{login}{quote(self.path)}?virtual_host={self.database}"
        else:
            # Celery switches to the next URL if a Sentinel does not answer, so each has the credentials.
            scheme = "sentinel" if self.master else "redis"
            url = ";".join(
                f"{scheme}://{login}{_bracketed(host)}:{port}/{self.database}" for host, port in self.hosts
            )
        if self.master:
            timeouts = {
                name: value for name, value in transport_options.items() if name.startswith("socket_")
            }
            transport_options = transport_options | {
                "master_name": self.master,
                "sentinel_kwargs": {**self._sentinel_login, **self._tls, **timeouts, "retry": _once_more()},
            }
        return {
            "broker_url": url,
            "broker_use_ssl": self.tls.arguments if self.tls else None,
            "broker_transport_options": transport_options,
        }

    @property
    def _tls(self) -> dict[str, Any]:
        return {"ssl": True, **self.tls.arguments} if self.tls else {}

    @property
    def _login(self) -> dict[str, Any]:
        return {"username": self.username or None, "password": self.password or None, "db": self.database}

    @property
    def _sentinel_login(self) -> dict[str, Any]:
        return {"username": self.sentinel_username or None, "password": self.sentinel_password or None}


async def close(client: redis.asyncio.Redis) -> None:
    """Close the connections of a client, and those to the Sentinels that it asked."""
    await client.aclose()
    manager: Any = getattr(client.connection_pool, "sentinel_manager", None)
    for sentinel in manager.sentinels if manager is not None else ():
        await sentinel.aclose()


def _once_more() -> Retry:
    """Return the retries of a question to a Sentinel: after a failover, it has closed idle connections."""
    return Retry(NoBackoff(), 1)


def _once_more_async() -> AsyncRetry:
    return AsyncRetry(NoBackoff(), 1)


def _options(parts: SplitResult) -> dict[str, str]:
    """Return the options of the query, without a check of their names."""
    options: dict[str, str] = {}
    for each in filter(None, parts.query.split("&")):
        name, assigned, value = each.partition("=")
        if not (assigned and name.isidentifier()):
            raise ValueError(f"the part after the question mark is not NAME=VALUE; use {_EXAMPLE}")
        if name in options:
            raise ValueError(f"the option {name} is given twice; leave one out")
        options[name] = unquote(value)
    if parts.fragment:
        raise ValueError(f"it has a part after '#'; write %23 for a # in a password, or use {_EXAMPLE}")
    return options


def _reject_others(options: dict[str, str], supported: tuple[str, ...], scheme: str) -> None:
    for name in options:
        if name in supported:
            continue
        if name in _TLS_OPTIONS:
            raise ValueError(f"the option {name} needs TLS; use rediss:// or leave it out")
        if name in _SENTINEL_OPTIONS:
            raise ValueError(f"the option {name} is for Sentinel; use {_SENTINEL_FORM} or leave it out")
        if name == "db":
            raise ValueError("the option db is not supported here; write the number as the path, as in /1")
        known = ", ".join(supported) or "none"
        raise ValueError(
            f"the option {name} is not supported by both redis-py and Celery; leave it out "
            f"(options of {scheme}://: {known})"
        )


def _parse_server(parts: SplitResult, options: dict[str, str]) -> RedisAddress:
    secure = parts.scheme == "rediss"
    _reject_others(options, _TLS_OPTIONS if secure else (), parts.scheme)
    if "," in parts.netloc.rpartition("@")[2]:
        raise ValueError(NO_CLUSTER)
    username, password, hosts = _authority(parts, _PORT)
    return RedisAddress(
        hosts,
        username=username,
        password=password,
        database=_database(parts.path.removeprefix("/")),
        tls=_tls(options) if secure else None,
    )


def _parse_socket(parts: SplitResult, options: dict[str, str]) -> RedisAddress:
    _reject_others(options, ("db",), parts.scheme)
    credentials, _, host = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    if host or len(parts.path) < 2:
        raise ValueError("the path of a unix socket starts with a slash; use unix:///run/redis.sock")
    return RedisAddress(
        path=unquote(parts.path),
        username=unquote(username),
        password=unquote(password),
        database=_database(options.get("db", "")),
    )


def _parse_sentinels(parts: SplitResult, options: dict[str, str]) -> RedisAddress:
    secure = parts.scheme == "rediss+sentinel"
    supported = (*_SENTINEL_OPTIONS, *(_TLS_OPTIONS if secure else ()))
    _reject_others(options, supported, parts.scheme)
    username, password, hosts = _authority(parts, _SENTINEL_PORT)
    master, _, database = parts.path.removeprefix("/").partition("/")
    if not master:
        raise ValueError(f"it does not name the master; use {_SENTINEL_FORM}")
    return RedisAddress(
        hosts,
        username=username,
        password=password,
        database=_database(database),
        master=unquote(master),
        sentinel_username=options.get("sentinel_username", ""),
        sentinel_password=options.get("sentinel_password", ""),
        tls=_tls(options) if secure else None,
    )


def _authority(parts: SplitResult, default_port: int) -> tuple[str, str, tuple[tuple[str, int], ...]]:
    """Return the username, the password and the hosts of a URL."""
    credentials, _, listed = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    hosts = []
    for each in listed.split(","):
        try:
            one = urlsplit(f"//{each}")
            host, port = one.hostname, one.port
        except ValueError:
            host, port = None, None
        if not host or port == 0:
            raise ValueError(
                f"its host or port is not valid; use {_EXAMPLE}, and write / and # of a password as "
                "%2F and %23"
            )
        hosts.append((host, port or default_port))
    return unquote(username), unquote(password), tuple(hosts)


def _database(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        raise ValueError(f"its database is not a number; use {_EXAMPLE}")
    return int(text)


def _tls(options: dict[str, str]) -> RedisTls:
    required = options.get("ssl_cert_reqs", "required").lower()
    if required not in _CERT_REQS:
        raise ValueError("the option ssl_cert_reqs has an unknown value; use required or none")
    checked = options.get("ssl_check_hostname", "true").lower()
    if checked not in _BOOLEANS:
        raise ValueError("the option ssl_check_hostname has an unknown value; use true or false")
    tls = RedisTls(
        options.get("ssl_ca_certs") or None,
        options.get("ssl_certfile") or None,
        options.get("ssl_keyfile") or None,
        _CERT_REQS[required],
        _BOOLEANS[checked],
    )
    tls.check_files()
    return tls


def _unusable(option: str, file: str, error: OSError) -> str:
    is_pem = not isinstance(error, ssl.SSLError)
    reason = error.strerror if is_pem else "it is not valid PEM, or the key has a password"
    return f"the file of {option}, {file}, cannot be used: {reason}; name another or mend it"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
