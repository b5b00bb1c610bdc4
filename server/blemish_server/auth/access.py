# SPDX-License-Identifier: Apache-2.0
"""The access file: the callers of a server, their roles and the digests of their tokens.

A token has 256 random bits, which cannot be guessed, so a plain SHA-256 digest suffices. The file alone
authorizes no calls. Callers are machines and services. Their names appear in logs and in the history of
changes.
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
from blemish_layouts.reading import read_regular
from blemish_server.auth.limits import NO_LIMITS, CallerLimits
from blemish_server.scoring.batcher import Priority

# A recognizable prefix lets scanners find tokens that were committed by mistake.
_PREFIX = "blemish_"
_MAX_BYTES = 16 << 20
"""Longest access file."""


def priority_name(priority: Priority) -> str:
    """Return a priority as the access file and the command line spell it."""
    return priority.name.lower().replace("_", "-")


PRIORITIES = {priority_name(priority): priority for priority in Priority}
_HIGHEST_PRIORITY = priority_name(Priority.LINE_STOP)


class Role(IntEnum):
    """The permissions of a caller. Each role includes those before it."""

    CAMERA = 1
    """Sends images and receives their inspections."""
    SERVICE = 2
    """Reads everything, searches, and labels images."""
    OPERATOR = 3
    """Uploads images; trains, promotes and calibrates models."""

    @property
    def word(self) -> str:
        """The role as the access file and the command line spell it."""
        return self.name.lower()


@dataclass(frozen=True)
class Caller:
    """An authenticated caller."""

    name: str
    role: Role
    most_urgent: Priority = Priority.LINE_STOP
    """Highest priority of its images."""
    limits: CallerLimits = NO_LIMITS


ANONYMOUS = Caller("", Role.OPERATOR)
"""The caller of a server without an access file."""


class Credential(BaseModel):
    """A caller's entry in the access file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: str = Field(pattern=f"^({'|'.join(role.word for role in Role)})$")
    most_urgent: str = Field(_HIGHEST_PRIORITY, pattern=f"^({'|'.join(PRIORITIES)})$")
    token_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    granted: datetime
    limits: CallerLimits = NO_LIMITS


class _AccessFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    callers: dict[str, Credential]


def read_callers(file: Path) -> Mapping[str, Caller]:
    """Return the callers in an access file by the digests of their tokens.

    Raises:
        NotFound: if the file does not exist.
        Corrupt: if the file cannot be read or is malformed.
    """
    return {
        credential.token_sha256: Caller(
            name,
            Role[credential.role.upper()],
            PRIORITIES[credential.most_urgent],
            credential.limits,
        )
        for name, credential in read_credentials(file).items()
    }


def read_credentials(file: Path) -> Mapping[str, Credential]:
    """Return the credentials in an access file by the names of their callers.

    Raises:
        NotFound: if the file does not exist.
        Corrupt: if the file cannot be read or is malformed.
    """
    try:
        return _AccessFile.model_validate_json(read_regular(file, _MAX_BYTES)).callers
    except FileNotFoundError:
        raise NotFound(f"there is no access file {file}; create one with `blemish access grant`") from None
    except OSError as error:
        raise Corrupt(
            f"cannot read the access file {file}: {error.strerror}; check its permissions"
        ) from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise Corrupt(
            f"{file} is not a valid access file: {where + ': ' if where else ''}{fault['msg']}; write it "
            "with `blemish access`"
        ) from error


def digest(token: str) -> str:
    """Return the SHA-256 digest of a token, in hex."""
    return sha256(token.encode(errors="replace")).hexdigest()


def grant(
    file: Path,
    name: str,
    role: Role,
    most_urgent: Priority = Priority.LINE_STOP,
    limits: CallerLimits = NO_LIMITS,
) -> str:
    """Create a credential and return its token, which is stored nowhere.

    Args:
        file: the access file, created if it does not exist.
        name: name of the caller.
        role: role of the caller.
        most_urgent: highest priority of its images.
        limits: limits of its calls.

    Raises:
        InvalidRequest: if the name is not a valid id.
        AlreadyExists: if the caller has a credential.
        NotFound: if the folder of the file does not exist.
        Corrupt: if the file cannot be read or is malformed.
    """
    validate_id(name, "name")
    token = _PREFIX + secrets.token_urlsafe(32)
    credential = Credential(
        role=role.word,
        most_urgent=priority_name(most_urgent),
        token_sha256=digest(token),
        granted=datetime.now(UTC),
        limits=limits,
    )
    with _locked(file):
        existing = read_credentials(file) if file.exists() else {}
        if name in existing:
            raise AlreadyExists(
                f"{name} has a credential already, as {existing[name].role}; revoke it first, or use "
                "another name"
            )
        _write(file, {**existing, name: credential})
    return token


def set_limits(file: Path, name: str, limits: CallerLimits) -> None:
    """Replace the limits of a caller. Its token stays.

    Raises:
        NotFound: if the caller has no credential, or the file does not exist.
        Corrupt: if the file cannot be read or is malformed.
    """
    with _locked(file):
        existing = _read_with(file, name)
        _write(file, {**existing, name: existing[name].model_copy(update={"limits": limits})})


def revoke(file: Path, name: str) -> None:
    """Delete the credential of a caller.

    Raises:
        NotFound: if the caller has none, or the file does not exist.
        Corrupt: if the file cannot be read or is malformed.
    """
    with _locked(file):
        existing = _read_with(file, name)
        _write(file, {each: credential for each, credential in existing.items() if each != name})


def _read_with(file: Path, name: str) -> dict[str, Credential]:
    """Return all credentials, among them that of ``name``.

    Raises:
        NotFound: if there is none.
    """
    existing = dict(read_credentials(file))
    if name not in existing:
        raise NotFound(
            f"{file} has no credential of {name}; it has: {', '.join(sorted(existing)) or 'none'}"
        )
    return existing


def _write(file: Path, credentials: dict[str, Credential]) -> None:
    # Without defaults, because servers older than priorities and limits reject unknown fields.
    text = _AccessFile(callers=credentials).model_dump_json(indent=2, exclude_defaults=True)
    atomic_write(file, text.encode() + b"\n")


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Lock the file's folder against other processes that change the file."""
    if not file.parent.is_dir():
        raise NotFound(f"there is no folder {file.parent}; create it, or choose another file")
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
