# SPDX-License-Identifier: Apache-2.0
"""Who may call a server, and what: a file of callers, which ``blemish access`` writes.

A caller shows a token, 256 random bits; the file has no more than its SHA-256, so that who reads it cannot
call. (Nothing slower is needed: there is no guessing such a token.) Names are those of machines and
services: they stand in logs, and beside what operators change.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blemish_core.platform.errors import AlreadyExists, Corrupt, NotFound
from blemish_core.platform.files import atomic_write
from blemish_core.platform.names import validate_id
from blemish_server.scoring.batcher import Priority

# Found by those who look for secrets where none should be.
_PREFIX = "blemish_"


def priority_name(priority: Priority) -> str:
    """As files and the command line have it."""
    return priority.name.lower().replace("_", "-")


PRIORITIES = {priority_name(priority): priority for priority in Priority}
_MOST_URGENT = priority_name(Priority.LINE_STOP)


class Role(IntEnum):
    """What a caller may do: each also what those before it may."""

    CAMERA = 1
    """Sends frames and reads what is said of them."""
    SERVICE = 2
    """Reads everything, searches, and notes what people say of images."""
    OPERATOR = 3
    """Brings images, has models trained, promotes and calibrates them."""

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Caller:
    """Who calls, as the file names him."""

    name: str
    role: Role
    most_urgent: Priority = Priority.LINE_STOP
    """Of his images: none may be more urgent."""


ANONYMOUS = Caller("", Role.OPERATOR)
"""Who calls a server that was given no file."""


class AccessEntry(BaseModel):
    """A caller's credential as the access file keeps it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: str = Field(pattern=f"^({'|'.join(role.word for role in Role)})$")
    most_urgent: str = Field(_MOST_URGENT, pattern=f"^({'|'.join(PRIORITIES)})$")
    token_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    granted: datetime


class _Callers(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    callers: dict[str, AccessEntry]


def read(file: Path) -> Mapping[str, Caller]:
    """Return the callers in ``file`` by the SHA-256 of their tokens.

    Raises:
        NotFound: if there is no such file.
        Corrupt: if it is not one that ``grant`` wrote.
    """
    return {
        entry.token_sha256: Caller(name, Role[entry.role.upper()], PRIORITIES[entry.most_urgent])
        for name, entry in _read(file).callers.items()
    }


def read_entries(file: Path) -> Mapping[str, "AccessEntry"]:
    """Return the entries of ``file`` by the names of their callers; raises like ``read``."""
    return _read(file).callers


def digest(token: str) -> str:
    """What the file has in the place of a token."""
    return sha256(token.encode(errors="replace")).hexdigest()


def grant(file: Path, name: str, role: Role, most_urgent: Priority = Priority.LINE_STOP) -> str:
    """Let ``name`` call, with images no more urgent than this; returns its token, which is kept nowhere.

    Raises:
        InvalidRequest: if it can be no name.
        AlreadyExists: if it may call already.
        Corrupt: as ``read`` does.
    """
    validate_id(name, "name")
    token = _PREFIX + secrets.token_urlsafe(32)
    entry = AccessEntry(
        role=role.word,
        most_urgent=priority_name(most_urgent),
        token_sha256=digest(token),
        granted=datetime.now(UTC),
    )
    with _alone(file):
        known = _read(file).callers if file.exists() else {}
        if name in known:
            raise AlreadyExists(
                f"{name} is there already, as {known[name].role}; revoke it first, or take another name"
            )
        _write(file, {**known, name: entry})
    return token


def revoke(file: Path, name: str) -> None:
    """Let ``name`` call no more.

    Raises:
        NotFound: if it may not, or there is no such file.
        Corrupt: as ``read`` does.
    """
    with _alone(file):
        known = _read(file).callers
        if name not in known:
            raise NotFound(
                f"{file} has no caller {name}; those it has: {', '.join(sorted(known)) or 'none'}"
            )
        _write(file, {each: entry for each, entry in known.items() if each != name})


def _read(file: Path) -> _Callers:
    try:
        return _Callers.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"there is no file of callers {file}; `blemish access grant` begins one") from None
    except OSError as error:
        raise Corrupt(f"the file of callers {file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise Corrupt(
            f"{file} is no file of callers: {where + ': ' if where else ''}{fault['msg']}; "
            "`blemish access` writes it"
        ) from error


def _write(file: Path, callers: dict[str, AccessEntry]) -> None:
    # Without defaults: servers of before know no priorities here, and refuse what they do not know.
    text = _Callers(callers=callers).model_dump_json(indent=2, exclude_defaults=True)
    atomic_write(file, text.encode() + b"\n")


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Nobody else changes ``file`` meanwhile."""
    if not file.parent.is_dir():
        raise NotFound(f"there is no folder {file.parent}")
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
