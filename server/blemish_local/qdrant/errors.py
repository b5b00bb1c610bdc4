# SPDX-License-Identifier: Apache-2.0
"""Why something is not done.

* Refusal, for the caller to read
    * BadRequest: it can never succeed as it stands
    * Missing: a collection, alias or point that is not there
    * AlreadyExists: the name is taken
    * Unsupported: a real Qdrant does it, the embedded one does not
* EngineFailed: the engine broke; for the log
* StoreUnusable: the directory cannot be served; for the person who starts the process
"""


class Refusal(Exception):
    """The request is not carried out; the text says why, and nothing was changed."""


class BadRequest(Refusal):
    """The request can never succeed as it stands."""


class Missing(Refusal):
    """What the request names is not there."""


class AlreadyExists(Refusal):
    """The name is taken."""


class Unsupported(Refusal):
    """Qdrant's API has it and the embedded one does not; the text names the part."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the embedded Qdrant has no {what}: set QDRANT_URL to a Qdrant server to use it")


class EngineFailed(Exception):
    """The engine failed for a reason that does not lie in the request."""


class StoreUnusable(Exception):
    """The directory cannot be served; the text names it, and the cure."""
