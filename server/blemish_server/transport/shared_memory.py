# SPDX-License-Identifier: Apache-2.0
"""POSIX shared memory that clients of the same machine register, as in Triton's protocol.

The server reads and writes the objects with system calls instead of mapping them. A client that shrinks an
object then causes an error; with a mapping, it would end the server with SIGBUS.
"""

import os
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from blemish_core.platform.errors import AlreadyExists, FailedPrecondition, InvalidRequest, NotFound

_FOLDER = Path("/dev/shm")
_MAX_REGIONS = 64
_MAX_NAME = 255
_SEMAPHORE = "sem."


@dataclass(frozen=True)
class SharedRegion:
    """A part of a shared memory object."""

    key: str
    """Name of the object, as the client gave it."""
    offset: int
    byte_size: int
    descriptor: int


@dataclass(frozen=True)
class SharedPart:
    """A part of a registered region, which holds a tensor."""

    region: str
    offset: int
    byte_size: int


class SharedMemory:
    """The regions that callers have registered. Safe to share between threads.

    Each caller sees its own regions. Without authentication all callers share them, as in Triton.
    """

    def __init__(self, *, enabled: bool, max_bytes: int, folder: Path = _FOLDER) -> None:
        """Create a registry without regions.

        Args:
            enabled: False rejects every registration.
            max_bytes: largest tensor that is read or written.
            folder: folder in which the system keeps shared memory objects.
        """
        self.enabled = enabled
        self._max_bytes = max_bytes
        self._folder = folder
        self._lock = threading.Lock()
        self._regions: dict[str, dict[str, SharedRegion]] = {}

    def register(self, caller: str, name: str, key: str, offset: int, byte_size: int) -> None:
        """Register part of a shared memory object under a name.

        Raises:
            FailedPrecondition: if shared memory is disabled, or the caller has too many regions.
            InvalidRequest: if a name is not valid, or the part exceeds the object.
            AlreadyExists: if the caller has a region of this name.
            NotFound: if there is no such object, or the server may not open it.
        """
        self._require_enabled()
        if not name or len(name) > _MAX_NAME:
            raise InvalidRequest(f"a region needs a name of 1 to {_MAX_NAME} characters", field="name")
        with self._lock:
            regions = self._regions.setdefault(caller, {})
            if name in regions:
                raise AlreadyExists(f"the region {name!r} is registered already; unregister it first")
            if len(regions) >= _MAX_REGIONS:
                raise FailedPrecondition(
                    f"{_MAX_REGIONS} regions are registered, the most possible; unregister some first"
                )
            regions[name] = SharedRegion(key, offset, byte_size, self._open(key, offset, byte_size))

    def unregister(self, caller: str, name: str = "") -> None:
        """Remove a region, or all regions of the caller if the name is empty. The object itself stays."""
        self._require_enabled()
        with self._lock:
            regions = self._regions.get(caller, {})
            for each in [name] if name else list(regions):
                if (region := regions.pop(each, None)) is not None:
                    os.close(region.descriptor)

    def status(self, caller: str, name: str = "") -> Mapping[str, SharedRegion]:
        """Return a region, or all regions of the caller if the name is empty.

        Raises:
            NotFound: if there is no such region.
        """
        self._require_enabled()
        with self._lock:
            regions = self._regions.get(caller, {})
            return {name: self._find(regions, name)} if name else dict(regions)

    def read(self, caller: str, part: SharedPart) -> bytes:
        """Return a copy of a part.

        Raises:
            NotFound: if there is no such region.
            InvalidRequest: if the part exceeds the region or the object, or is too large.
        """
        with self._lock:
            region = self._bounded(caller, part)
            data = os.pread(region.descriptor, part.byte_size, region.offset + part.offset)
        if len(data) != part.byte_size:
            raise InvalidRequest(
                f"the shared memory object {region.key!r} has shrunk; register it again",
                field="inputs.parameters",
            )
        return data

    def write(self, caller: str, part: SharedPart, data: bytes) -> None:
        """Write data to the begin of a part.

        Raises:
            NotFound: if there is no such region.
            InvalidRequest: if the part exceeds the region or the object, or the data exceeds the part.
        """
        if len(data) > part.byte_size:
            raise InvalidRequest(
                f"an output has {len(data)} bytes, and its part of the region {part.region!r} has "
                f"{part.byte_size}; enlarge it",
                field="outputs.parameters",
            )
        with self._lock:
            region = self._bounded(caller, part)
            if os.fstat(region.descriptor).st_size < region.offset + region.byte_size:
                raise InvalidRequest(
                    f"the shared memory object {region.key!r} has shrunk; register it again",
                    field="outputs.parameters",
                )
            os.pwrite(region.descriptor, data, region.offset + part.offset)

    def close(self) -> None:
        """Remove all regions."""
        with self._lock:
            for regions in self._regions.values():
                for region in regions.values():
                    os.close(region.descriptor)
            self._regions.clear()

    def _require_enabled(self) -> None:
        if not self.enabled:
            raise FailedPrecondition(
                "shared memory is disabled; set BLEMISH_SHARED_MEMORY=true on the server, "
                "or send the tensors"
            )

    def _open(self, key: str, offset: int, byte_size: int) -> int:
        """Open an object and check that the part lies within it."""
        name = key.lstrip("/")  # as shm_open does
        if (
            not name
            or "/" in name
            or "\0" in name
            or name in (".", "..")
            or name.startswith(_SEMAPHORE)
            or len(os.fsencode(name)) > _MAX_NAME
        ):
            raise InvalidRequest(
                f"{key[:40]!r} is not the key of a shared memory object; use one such as /frames",
                field="key",
            )
        if byte_size < 1:
            raise InvalidRequest("a region needs at least one byte; give its size", field="byte_size")
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self._folder / name, flags)
        except OSError as error:
            raise NotFound(
                f"the shared memory object {key!r} cannot be opened ({error.strerror}); "
                "create it for the user of the server first"
            ) from error
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or offset + byte_size > found.st_size:
            os.close(descriptor)
            raise InvalidRequest(
                f"the shared memory object {key!r} has {found.st_size} bytes; register a part within it",
                field="byte_size",
            )
        return descriptor

    def _bounded(self, caller: str, part: SharedPart) -> SharedRegion:
        self._require_enabled()
        region = self._find(self._regions.get(caller, {}), part.region)
        if part.offset < 0 or part.byte_size < 0 or part.offset + part.byte_size > region.byte_size:
            raise InvalidRequest(
                f"the part of {part.byte_size} bytes at {part.offset} exceeds the region {part.region!r} "
                f"of {region.byte_size} bytes; choose a part within it",
                field="parameters.shared_memory_byte_size",
            )
        if part.byte_size > self._max_bytes:
            raise InvalidRequest(
                f"the tensor has {part.byte_size} bytes, more than the {self._max_bytes} of "
                "BLEMISH_MAX_MESSAGE_BYTES; send fewer images",
                field="parameters.shared_memory_byte_size",
            )
        return region

    @staticmethod
    def _find(regions: Mapping[str, SharedRegion], name: str) -> SharedRegion:
        if name not in regions:
            raise NotFound(f"there is no region {name[:40]!r}; register it first")
        return regions[name]
