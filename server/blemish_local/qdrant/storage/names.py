# SPDX-License-Identifier: Apache-2.0
"""Names of collections and aliases, restricted because they become names of files."""

import re

from blemish_local.qdrant.errors import BadRequest

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


def checked(name: str, purpose: str) -> str:
    """Return the name if it is valid; ``purpose`` completes the error, as in "an alias".

    Raises:
        BadRequest: if a file cannot or should not have the name.
    """
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"{name[:80]!r} cannot name {purpose}; use 1 to 200 ASCII letters, digits, "
            "'.', '_' and '-', with no '.' in front"
        )
    return name
