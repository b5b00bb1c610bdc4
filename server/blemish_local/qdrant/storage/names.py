# SPDX-License-Identifier: Apache-2.0
"""The names of collections, aliases and vectors: they become names of files, so few are allowed."""

import re

from blemish_local.qdrant.errors import BadRequest

# 200: the engine puts a prefix before a vector's name, and file systems end at 255 bytes.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


def checked(name: str, of: str) -> str:
    """Return ``name``, which is meant for what ``of`` says.

    Raises:
        BadRequest: if no file could or should have it.
    """
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"{name[:80]!r} cannot name {of}: use 1 to 200 ASCII letters, digits, "
            "'.', '_' and '-', with no '.' in front"
        )
    return name
