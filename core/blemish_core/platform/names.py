# SPDX-License-Identifier: Apache-2.0
"""Resource names: ``datasets/ID``, ``models/ID/versions/N``, ``jobs/ID`` and ``items/UUID``."""

import re
from dataclasses import dataclass
from uuid import UUID

from blemish_core.platform.errors import InvalidRequest

ID = r"[a-z0-9][a-z0-9_-]{0,62}"
ID_RULE = "use 1 to 63 of a-z, 0-9, '-' and '_', starting with a letter or digit"

PRODUCTION = "production"
LATEST = "latest"
_MIN_PREFIX, _UUID_DIGITS = 4, 32

MAX_VERSION = 999_999_999
"""Largest number of a version, as names have at most nine digits."""


def validate_id(text: str, field: str) -> str:
    """Return ``text`` if it is a valid id.

    Raises:
        InvalidRequest: if it is not.
    """
    if not re.fullmatch(ID, text):
        raise InvalidRequest(f"{text!r} is not a valid id; {ID_RULE}", field=field)
    return text


@dataclass(frozen=True)
class ModelRef:
    """A reference to a model: a fixed version, the one in production, the latest one, or the default one.

    The default is the production version if there is one, else the latest version.
    """

    model: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, name: str, field: str = "model") -> "ModelRef":
        """Parse ``models/ID``, ``models/ID@production``, ``models/ID/versions/N`` or ``/versions/latest``.

        ``models/ID@latest`` means the same as ``models/ID/versions/latest``.

        Raises:
            InvalidRequest: if ``name`` has another form.
        """
        match = re.fullmatch(
            rf"models/({ID})(?:@({PRODUCTION}|{LATEST})|/versions/(?:([1-9]\d{{0,8}})|({LATEST})))?", name
        )
        if not match:
            raise InvalidRequest(
                f"{name!r} is not a model; write models/ID, models/ID@{PRODUCTION}, models/ID/versions/N "
                f"or models/ID/versions/{LATEST}",
                field=field,
            )
        model, alias, version, latest = match.groups()
        return cls(model, int(version) if version else None, alias or latest)

    def __str__(self) -> str:
        if self.version is not None:
            return f"models/{self.model}/versions/{self.version}"
        if self.alias == LATEST:
            return f"models/{self.model}/versions/{LATEST}"
        return f"models/{self.model}" + (f"@{self.alias}" if self.alias else "")


def dataset_name(dataset_id: str) -> str:
    return f"datasets/{dataset_id}"


def dataset_id(name: str, field: str = "dataset") -> str:
    """Return the id in ``datasets/ID``.

    Raises:
        InvalidRequest: if ``name`` has another form.
    """
    return _id_below("datasets", name, field)


def job_name(job_id: str) -> str:
    return f"jobs/{job_id}"


def job_id(name: str, field: str = "name") -> str:
    """Return the id in ``jobs/ID``.

    Raises:
        InvalidRequest: if ``name`` has another form.
    """
    return _id_below("jobs", name, field)


def item_name(item: UUID | str) -> str:
    return f"items/{item}"


def item_id(name: str, field: str = "item") -> UUID:
    """Return the id in ``items/UUID``.

    Raises:
        InvalidRequest: if ``name`` has another form.
    """
    kind, _, text = name.partition("/")
    try:
        if kind == "items":
            return UUID(text)
    except ValueError:
        pass
    raise InvalidRequest(f"{name!r} is not an item; write items/UUID, as in search results", field=field)


def item_prefix(name: str) -> str | None:
    """Return the digits of ``items/PREFIX``, the first of a UUID in lower case, and None for another form.

    A prefix has 4 to 31 hexadecimal digits, with the dashes of a UUID or without.
    """
    match = re.fullmatch(r"items/([0-9a-f-]+)", name.lower())
    digits = match[1].replace("-", "") if match else ""
    return digits if _MIN_PREFIX <= len(digits) < _UUID_DIGITS else None


def _id_below(kind: str, name: str, field: str) -> str:
    match = re.fullmatch(rf"{kind}/({ID})", name)
    if not match:
        raise InvalidRequest(f"{name!r} is not a name in {kind}/; write {kind}/ID", field=field)
    return match.group(1)
