# SPDX-License-Identifier: Apache-2.0
"""A guard against calls in a process that was forked, in which gRPC may wait for threads of the parent.

gRPC prepares for fork() only while no thread is in a call and no asyncio channel is open. Otherwise its
state in the child is undefined: some calls work there, others hang or crash.
"""

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from blemish_client.errors import FailedPrecondition

FORKED = "FORKED"
"""Reason of errors of calls that are not possible after fork()."""

_INHERITED = "this client was created before fork(); create a client in the child process"
_BUSY = (
    "gRPC does not work in this process, because its parent had a running call or an open AsyncClient at "
    "fork(); start processes with spawn"
)
_DISABLED = (
    "gRPC does not work in this process, because GRPC_ENABLE_FORK_SUPPORT is off; unset it, or start "
    "processes with spawn"
)
_OFF = frozenset({"0", "false", "f", "no", "n", "off"})


class _ForkState:
    """The calls and channels of this process, and the reason why it cannot use gRPC."""

    def __init__(self) -> None:
        self.calls: set[object] = set()
        self.polled: weakref.WeakSet[ProcessGuard] = weakref.WeakSet()
        """Guards of open asyncio channels, for which a thread of gRPC waits."""
        self.has_channels = False
        self.is_child = False
        """True if this process was forked after the import of this module."""
        self.unusable = ""
        self._is_busy = False

    def before_fork(self) -> None:
        self._is_busy = bool(self.calls) or len(self.polled) > 0

    def after_fork_in_child(self) -> None:
        self.is_child = True
        if self._is_busy:
            self.unusable = _BUSY
        elif self.has_channels and os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "").lower() in _OFF:
            self.unusable = _DISABLED
        self.calls = set()
        self.polled = weakref.WeakSet()


_state = _ForkState()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_state.before_fork, after_in_child=_state.after_fork_in_child)


class ProcessGuard:
    """The process that owns a channel."""

    def __init__(self) -> None:
        """Remember this process.

        Raises:
            FailedPrecondition: if gRPC does not work in this process.
        """
        if _state.unusable:
            raise _failure(_state.unusable)
        _state.has_channels = True
        self._process = os.getpid()

    @property
    def channel_options(self) -> list[tuple[str, int]]:
        """The gRPC options that a channel needs in this process."""
        # Otherwise the channel would take over connections of the parent.
        return [("grpc.use_local_subchannel_pool", 1)] if _state.is_child else []

    @property
    def is_own_process(self) -> bool:
        """True in the process that owns the channel, false in its children."""
        return os.getpid() == self._process

    def check(self) -> None:
        """Raise FailedPrecondition if the channel belongs to the parent of this process."""
        if not self.is_own_process:
            raise _failure(_INHERITED)

    @contextmanager
    def call(self) -> Iterator[None]:
        """Check as ``check`` does, and note that a call is running."""
        self.check()
        call = object()
        _state.calls.add(call)
        try:
            yield
        finally:
            _state.calls.discard(call)

    def open_asyncio(self) -> None:
        """Note that an asyncio channel is open."""
        self.check()
        _state.polled.add(self)

    def close_asyncio(self) -> None:
        """Note that the asyncio channel is closed."""
        _state.polled.discard(self)


def _failure(message: str) -> FailedPrecondition:
    return FailedPrecondition(message, code=grpc.StatusCode.FAILED_PRECONDITION, reason=FORKED)
