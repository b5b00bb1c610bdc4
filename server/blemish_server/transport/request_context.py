# SPDX-License-Identifier: Apache-2.0
"""Queue options of a call: its place among other callers, its priority and its deadline."""

import math
import time
from contextvars import ContextVar
from typing import Any

import grpc.aio

from blemish_core.platform.errors import PermissionDenied
from blemish_server.auth.access import priority_name
from blemish_server.auth.authenticator import current_caller
from blemish_server.scoring.batcher import Priority
from blemish_server.scoring.inspection import QueueOptions

current_request_id: ContextVar[str] = ContextVar("current_request_id", default="")
"""Id of the call in progress, in the server's log and in the audit log."""

_Context = grpc.aio.ServicerContext[Any, Any]


def queue_key(context: _Context) -> str:
    """Return the key under which the images of a call share the queue with other calls.

    All connections of an authenticated caller have the same key. Without authentication each connection
    has its own.
    """
    return current_caller.get().name or context.peer()


def effective_priority(requested: Priority | None) -> Priority:
    """Return the priority of a call's images: AUDIT by default, or less if the caller is limited to less.

    Raises:
        PermissionDenied: if the caller may not use the requested priority.
    """
    caller = current_caller.get()
    if requested is None:
        return max(Priority.AUDIT, caller.most_urgent)
    if requested < caller.most_urgent:
        raise PermissionDenied(
            f"{caller.name} requested priority {priority_name(requested)}, but is limited to "
            f"{priority_name(caller.most_urgent)}; lower the priority, or grant more with `blemish access`"
        )
    return requested


def queue_options(context: _Context, priority: Priority | None = None) -> QueueOptions:
    """Return how the images of a call are queued.

    Raises:
        PermissionDenied: if the caller may not use the requested priority.
    """
    left_s = context.time_remaining()
    deadline = math.inf if left_s is None else time.monotonic() + left_s
    return QueueOptions(queue_key(context), effective_priority(priority), deadline)
