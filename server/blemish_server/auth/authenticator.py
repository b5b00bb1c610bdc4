# SPDX-License-Identifier: Apache-2.0
"""Who calls, and whether he may: by the token of the call, the file of callers, and the contract's roles.

https://www.rfc-editor.org/rfc/rfc6750 for the token; ``blemish/v1/access.proto`` for the roles.
"""

import time
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path

import structlog
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from tritonclient.grpc import service_pb2

from blemish.v1 import access_pb2, dataset_pb2, inspection_pb2, job_pb2, model_pb2, search_pb2, server_pb2
from blemish_core.platform.errors import BlemishError, PermissionDenied, Unauthenticated
from blemish_server.auth.access import ANONYMOUS, Caller, Role, digest, read

_METADATA = "authorization"
_SCHEME = "bearer "
_LOOK_EVERY_S = 1.0
_CONTRACT = (inspection_pb2, search_pb2, dataset_pb2, job_pb2, model_pb2, server_pb2)
# The Open Inference Protocol is not ours to annotate: what a client that scores needs is for cameras,
# all else that it knows for operators.
_FOR_CAMERAS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelConfig",
    "ModelInfer",
    "ModelStreamInfer",
)

log = structlog.get_logger(__name__)

current_caller: ContextVar[Caller] = ContextVar("current_caller", default=ANONYMOUS)
"""Who makes the call that is being answered."""


def roles() -> dict[str, Role]:
    """The least role of each method of the contract and of the Open Inference Protocol, by its path."""
    least = {
        path: Role(method.GetOptions().Extensions[access_pb2.role] or Role.OPERATOR)
        for module in _CONTRACT
        for path, method in _methods(module.DESCRIPTOR)
    }
    for path, method in _methods(service_pb2.DESCRIPTOR):
        least[path] = Role.CAMERA if method.name in _FOR_CAMERAS else Role.OPERATOR
    return least


class Authenticator:
    """Knows the callers in ``file``, and heeds its changes; without a file everybody may do everything."""

    def __init__(self, file: Path | None) -> None:
        """Read the file.

        Raises:
            NotFound: if there is none.
            Corrupt: if it is no file of callers.
        """
        self._file = file
        self._roles = roles()
        self._seen: object = None
        self._looked = 0.0
        self._known: Mapping[str, Caller] = {}
        if file is not None:
            self._seen, self._known = _state(file), read(file)
            self._looked = time.monotonic()

    def authorize(self, method: str, metadata: Mapping[str, str | bytes]) -> Caller:
        """Return who calls ``method``, as /package.Service/Method.

        Raises:
            Unauthenticated: if his token says nobody that is known.
            PermissionDenied: if his role does not reach so far.
        """
        caller = self._caller(str(metadata.get(_METADATA, ""))) if self._file is not None else ANONYMOUS
        least = self._roles.get(method, Role.OPERATOR)
        if caller.role < least:
            raise PermissionDenied(
                f"{caller.name} is a {caller.role.word}, but {method.rpartition('/')[2]} is for "
                f"{least.word}s; call with the token of one"
            )
        return caller

    def _caller(self, authorization: str) -> Caller:
        self._look()
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            raise Unauthenticated(
                "this server asks who calls: send the metadata `authorization: Bearer TOKEN` "
                "(BLEMISH_TOKEN for the command line); `blemish access grant` beside the server makes one"
            )
        caller = self._known.get(digest(authorization[len(_SCHEME) :].strip()))
        if caller is None:
            raise Unauthenticated("this token is not known here: it was revoked, or is another server's")
        return caller

    def _look(self) -> None:
        """Read the file again if it changed; one that cannot be read changes nothing."""
        now = time.monotonic()
        if self._file is None or now < self._looked + _LOOK_EVERY_S:
            return
        self._looked = now
        state = _state(self._file)
        if state == self._seen:
            return
        self._seen = state
        try:
            self._known = read(self._file)
        except BlemishError as error:
            log.error("callers stay as they were", cause=str(error))
        else:
            log.info("callers read again", callers=len(self._known))


def _methods(file: FileDescriptor) -> list[tuple[str, MethodDescriptor]]:
    return [
        (f"/{service.full_name}/{method.name}", method)
        for service in file.services_by_name.values()
        for method in service.methods
    ]


def _state(file: Path) -> object:
    """What differs whenever the file was written."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
