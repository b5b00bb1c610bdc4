# SPDX-License-Identifier: Apache-2.0
"""What a call itself says of how its pictures wait: whose they are, how urgent, and until when."""

import math
import time
from typing import Any

import grpc.aio

from blemish_core.platform.errors import PermissionDenied
from blemish_server.auth.access import spelled
from blemish_server.auth.authenticator import calling
from blemish_server.scoring.batcher import Priority
from blemish_server.scoring.scorer import Terms

_Context = grpc.aio.ServicerContext[Any, Any]


def turn_of(context: _Context) -> str:
    """Whose turn a call takes: its caller's, however he is connected; of one not known its connection's."""
    return calling.get().name or context.peer()


def urgency(asked: Priority | None) -> Priority:
    """How urgent the pictures of a call are; where it does not say, AUDIT, or as much as its caller may.

    Raises:
        PermissionDenied: if its caller may not ask for so much.
    """
    caller = calling.get()
    if asked is None:
        return max(Priority.AUDIT, caller.most_urgent)
    if asked < caller.most_urgent:
        raise PermissionDenied(
            f"{caller.name} asks for {spelled(asked)}, but its images may be {spelled(caller.most_urgent)} "
            "at most; lower the priority, or have more granted by `blemish access`"
        )
    return asked


def terms_of(context: _Context, priority: Priority | None = None) -> Terms:
    """How a call's pictures wait.

    Raises:
        PermissionDenied: as ``urgency`` does.
    """
    left_s = context.time_remaining()
    deadline = math.inf if left_s is None else time.monotonic() + left_s
    return Terms(turn_of(context), urgency(priority), deadline)
