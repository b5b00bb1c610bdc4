# SPDX-License-Identifier: Apache-2.0
"""The right to work on something, as long as whoever has it lives."""

import threading
from typing import Self
from uuid import uuid4

import structlog

from blemish_core.jobs.store import JobStore
from blemish_core.platform.errors import Unavailable

_RENEW_EVERY_S = 5.0

log = structlog.get_logger(__name__)


class LeaseHeld(Exception):
    """Somebody else is at it."""


class Lease:
    """A context in which nobody else works on ``name``; a thread renews it, for it lasts 15 s.

    It keeps two from doing the same, which would be a waste, and no more than that: who slept through its
    end does not know. What must not happen twice is kept from happening by the number of the attempt.
    """

    def __init__(self, store: JobStore, name: str) -> None:
        self._store = store
        self._name = name
        self._holder = uuid4().hex
        self._stopped = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Self:
        """Take it.

        Raises:
            LeaseHeld: if somebody else has it.
            Unavailable: if Redis does not answer.
        """
        if not self._store.acquire_lease(self._name, self._holder):
            raise LeaseHeld(self._name)
        self._heart.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        self._heart.join()
        try:
            self._store.release_lease(self._name, self._holder)
        except Unavailable:
            log.warning("lease not dropped, it runs out by itself")

    def _beat(self) -> None:
        while not self._stopped.wait(_RENEW_EVERY_S):
            try:
                if not self._store.acquire_lease(self._name, self._holder):
                    log.warning("lease lost")
            except Unavailable:
                log.warning("lease not renewed", dependency="redis")
