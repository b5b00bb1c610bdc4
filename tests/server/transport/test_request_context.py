# SPDX-License-Identifier: Apache-2.0
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest

from blemish_core.platform.errors import PermissionDenied
from blemish_server.auth.access import ANONYMOUS, Caller, Role
from blemish_server.auth.authenticator import current_caller
from blemish_server.scoring.batcher import Priority
from blemish_server.transport.request_context import effective_priority, queue_key, queue_options


class Context:
    """The context of a call from ``peer`` with ``left_s`` seconds to its deadline."""

    def __init__(self, peer: str, left_s: float | None = None) -> None:
        self._peer, self._left_s = peer, left_s

    def peer(self) -> str:
        return self._peer

    def time_remaining(self) -> float | None:
        return self._left_s


@pytest.fixture(autouse=True)
def _reset_caller() -> Iterator[None]:
    before = current_caller.set(ANONYMOUS)
    yield
    current_caller.reset(before)


@pytest.mark.parametrize("caller", [ANONYMOUS, Caller("mes", Role.SERVICE)])
def test_authenticated_caller_has_one_key_on_all_connections(caller: Caller) -> None:
    current_caller.set(caller)
    left, right = (queue_key(_of(f"ipv4:10.0.0.1:{port}")) for port in (1, 2))
    assert (left == right) is (caller is not ANONYMOUS)


def test_options_have_the_deadline_and_priority_of_the_call() -> None:
    assert queue_options(_of("a")).deadline == math.inf
    assert queue_options(_of("a")).priority is Priority.AUDIT
    terms = queue_options(_of("a", 5.0), Priority.LINE_STOP)
    assert time.monotonic() < terms.deadline <= time.monotonic() + 5
    assert terms.priority is Priority.LINE_STOP


@pytest.mark.parametrize(
    ("limit", "requested", "priority"),
    [
        (Priority.LINE_STOP, None, Priority.AUDIT),
        (Priority.LINE_STOP, Priority.LINE_STOP, Priority.LINE_STOP),
        (Priority.AUDIT, Priority.AUDIT, Priority.AUDIT),
        (Priority.AUDIT, Priority.BACKFILL, Priority.BACKFILL),
        (Priority.BACKFILL, None, Priority.BACKFILL),
        (Priority.BACKFILL, Priority.BACKFILL, Priority.BACKFILL),
    ],
)
def test_priority_is_the_requested_one_or_its_default(
    limit: Priority, requested: Priority | None, priority: Priority
) -> None:
    current_caller.set(Caller("press-7", Role.CAMERA, limit))
    assert effective_priority(requested) is priority
    assert queue_options(_of("a"), requested).priority is priority


@pytest.mark.parametrize(
    ("limit", "requested"),
    [
        (Priority.AUDIT, Priority.LINE_STOP),
        (Priority.BACKFILL, Priority.AUDIT),
        (Priority.BACKFILL, Priority.LINE_STOP),
    ],
)
def test_priority_above_the_callers_limit_is_rejected(limit: Priority, requested: Priority) -> None:
    current_caller.set(Caller("press-7", Role.CAMERA, limit))
    with pytest.raises(PermissionDenied, match=r"press-7 requested priority .*, but is limited to "):
        queue_options(_of("a"), requested)


def _of(peer: str, left_s: float | None = None) -> Any:
    return Context(peer, left_s)
