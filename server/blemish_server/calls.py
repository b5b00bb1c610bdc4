# SPDX-License-Identifier: Apache-2.0
"""What a call itself says of how its pictures wait: whose they are, and until when."""

import math
import time
from typing import Any

import grpc.aio

from blemish_core.batching import Priority
from blemish_server.doorkeeper import calling
from blemish_server.inspector import Terms

_Context = grpc.aio.ServicerContext[Any, Any]


def turn_of(context: _Context) -> str:
    """Whose turn a call takes: its caller's, however he is connected; of one not known its connection's."""
    return calling.get().name or context.peer()


def terms_of(context: _Context, priority: Priority = Priority.AUDIT) -> Terms:
    left_s = context.time_remaining()
    return Terms(turn_of(context), priority, math.inf if left_s is None else time.monotonic() + left_s)
