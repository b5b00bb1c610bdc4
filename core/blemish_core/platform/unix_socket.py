# SPDX-License-Identifier: Apache-2.0
"""Unix sockets to listen on: parsing, checks with a remedy, and the removal of stale files.

gRPC replaces an existing socket file without a check, so a second server would cut off the first one.
"""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SCHEME = "unix:"
_MAX_PATH_BYTES = 107
"""Longest path of a socket on Linux."""
_EXAMPLE = "unix:/run/blemish.sock"


class SocketUnusable(Exception):
    """A path on which the process cannot listen."""


@dataclass(frozen=True)
class UnixSocket:
    """A unix socket, named by its path."""

    target: str
    """The address as the user gave it, which gRPC takes too."""
    path: Path

    @classmethod
    def parse(cls, text: str) -> "UnixSocket":
        """Parse ``unix:PATH`` or ``unix:///PATH``.

        Raises:
            ValueError: if the text names no path, an abstract socket, or a path that gRPC cannot take.
        """
        if text.startswith("unix-abstract:"):
            raise ValueError(
                f"{text!r} is an abstract socket, which every process of this machine may open; "
                f"use a path, such as {_EXAMPLE}"
            )
        path = text.removeprefix(SCHEME)
        if path.startswith("//"):
            path = path.removeprefix("//")
            if not path.startswith("/"):
                raise ValueError(f"{text!r} has a host before the path; use {_EXAMPLE}")
        if not path or path.endswith("/"):
            raise ValueError(f"{text!r} does not name a file; use {_EXAMPLE}")
        if found := [character for character in "%?#\0" if character in path]:
            raise ValueError(f"the path of {text!r} contains {found[0]!r}; choose a path without it")
        length = len(os.fsencode(path))
        if length > _MAX_PATH_BYTES:
            raise ValueError(
                f"the path of {text!r} has {length} bytes, and sockets have at most {_MAX_PATH_BYTES}; "
                "choose a shorter one"
            )
        return cls(text, Path(path))

    def __str__(self) -> str:
        return self.target

    def require_free(self) -> None:
        """Check that a server can listen here, and remove the file of a server that has died.

        Raises:
            SocketUnusable: if another process listens there, or the file cannot be created.
        """
        folder = self.path.parent
        if not folder.is_dir():
            raise SocketUnusable(
                f"the folder {folder} of {self} does not exist; create it or choose another"
            )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise SocketUnusable(
                f"the folder {folder} of {self} cannot be written; make it writable or choose another"
            )
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise SocketUnusable(
                f"{self.path} exists and is not a socket; remove it or choose another path"
            )
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(2)
            try:
                probe.connect(str(self.path))
            except OSError as error:
                if error.errno not in (errno.ECONNREFUSED, errno.ENOENT):
                    raise SocketUnusable(
                        f"the socket {self.path} cannot be checked ({error.strerror or error}); "
                        "remove it or choose another path"
                    ) from error
                self.path.unlink(missing_ok=True)
                return
        raise SocketUnusable(f"another process listens on {self}; stop it or choose another path")

    @contextmanager
    def reserved(self, mode: int) -> Iterator[None]:
        """Check the path as ``require_free`` does, and give the socket of the block its permissions.

        Two servers that start at once check one after the other.

        Raises:
            SocketUnusable: if another process listens there, or the file cannot be created.
        """
        self.require_free()
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        mask = os.umask(0o777 & ~mode)  # no moment in which others may connect
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            self.require_free()
            yield
        finally:
            os.umask(mask)
            os.close(folder)
