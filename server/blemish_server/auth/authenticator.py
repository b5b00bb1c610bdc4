# SPDX-License-Identifier: Apache-2.0
"""Authentication and authorization of calls: a bearer token, the access file, and a role per method.

Tokens follow RFC 6750 (https://www.rfc-editor.org/rfc/rfc6750). ``blemish/v1/access.proto`` assigns roles
to the contract's methods.
"""

import time
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path

import structlog
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from tritonclient.grpc import service_pb2

from blemish.v1 import (
    access_pb2,
    audit_pb2,
    dataset_pb2,
    inspection_pb2,
    job_pb2,
    model_pb2,
    search_pb2,
    server_pb2,
)
from blemish_core.platform.errors import BlemishError, PermissionDenied, Unauthenticated
from blemish_server.auth.access import ANONYMOUS, Caller, Role, digest, read_callers

_METADATA_KEY = "authorization"
_SCHEME = "bearer "
_CHECK_INTERVAL_S = 1.0
_CONTRACT = (inspection_pb2, search_pb2, dataset_pb2, job_pb2, model_pb2, server_pb2, audit_pb2)
# The Open Inference Protocol has no annotations. Cameras may call the methods that scoring needs.
_CAMERA_METHODS = (
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
"""Caller of the call in progress."""


def required_roles() -> dict[str, Role]:
    """Return the lowest role that may call each method, by its path.

    The methods are those of the contract and of the Open Inference Protocol.
    """
    required = {
        path: Role(method.GetOptions().Extensions[access_pb2.role] or Role.OPERATOR)
        for module in _CONTRACT
        for path, method in _methods(module.DESCRIPTOR)
    }
    for path, method in _methods(service_pb2.DESCRIPTOR):
        required[path] = Role.CAMERA if method.name in _CAMERA_METHODS else Role.OPERATOR
    return required


class Authenticator:
    """The check of each call against the access file, which is reloaded when it changes."""

    def __init__(self, file: Path | None) -> None:
        """Read the access file; without one, every caller is anonymous and may call every method.

        Raises:
            NotFound: if the file does not exist.
            Corrupt: if the file cannot be read or is malformed.
        """
        self._file = file
        self._required_roles = required_roles()
        self._state: object = None
        self._checked_s = 0.0
        self._callers: Mapping[str, Caller] = {}
        if file is not None:
            self._state, self._callers = _state(file), read_callers(file)
            self._checked_s = time.monotonic()

    def authorize(self, method: str, metadata: Mapping[str, str | bytes]) -> Caller:
        """Return the caller of a method, given as /package.Service/Method.

        Raises:
            Unauthenticated: if the metadata has no valid token.
            PermissionDenied: if the caller's role does not include the method.
        """
        caller = self.authenticate(metadata)
        self.check_role(caller, method)
        return caller

    def authenticate(self, metadata: Mapping[str, str | bytes]) -> Caller:
        """Return the caller with the token in the metadata.

        Raises:
            Unauthenticated: if the metadata has no valid token.
        """
        return self._authenticate(str(metadata.get(_METADATA_KEY, ""))) if self._file else ANONYMOUS

    def check_role(self, caller: Caller, method: str) -> None:
        """Check that a caller may call a method.

        Raises:
            PermissionDenied: if the caller's role does not include the method.
        """
        required = self._required_roles.get(method, Role.OPERATOR)
        if caller.role < required:
            raise PermissionDenied(
                f"{caller.name} has the role {caller.role.word}, but {method.rpartition('/')[2]} needs "
                f"{required.word}; use the token of a caller with that role"
            )

    def _authenticate(self, authorization: str) -> Caller:
        self._reload()
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            raise Unauthenticated(
                "the call has no token; send the metadata `authorization: Bearer TOKEN` (BLEMISH_TOKEN for "
                "the command line). `blemish access grant` on the server's machine creates a token"
            )
        caller = self._callers.get(digest(authorization[len(_SCHEME) :].strip()))
        if caller is None:
            raise Unauthenticated("the token was revoked or is for another server; use a valid token")
        return caller

    def _reload(self) -> None:
        """Read the access file again if it changed; keep the callers if it cannot be read."""
        now = time.monotonic()
        if self._file is None or now < self._checked_s + _CHECK_INTERVAL_S:
            return
        self._checked_s = now
        state = _state(self._file)
        if state == self._state:
            return
        self._state = state
        try:
            self._callers = read_callers(self._file)
        except BlemishError as error:
            log.error("access file not reloaded", cause=str(error))
        else:
            log.info("access file reloaded", callers=len(self._callers))


def _methods(file: FileDescriptor) -> list[tuple[str, MethodDescriptor]]:
    return [
        (f"/{service.full_name}/{method.name}", method)
        for service in file.services_by_name.values()
        for method in service.methods
    ]


def _state(file: Path) -> object:
    """Return a value that changes whenever the file is written."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
