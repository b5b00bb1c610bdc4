# SPDX-License-Identifier: Apache-2.0
"""A lock in Redis that expires with its holder."""

import threading
from typing import Self
from uuid import uuid4

import structlog

from blemish_core.jobs.store import JobStore
from blemish_core.platform.errors import Unavailable

_RENEW_EVERY_S = 5.0

log = structlog.get_logger(__name__)


class LeaseHeld(Exception):
    """Another process holds the lease."""


class Lease:
    """A context manager that holds the lease on ``name`` and renews it in a thread.

    A lease avoids duplicate work, but it does not exclude it: a suspended process can outlive its lease
    without noticing. The number of the attempt fences the effects of such a process.
    """

    def __init__(self, store: JobStore, name: str) -> None:
        self._store = store
        self._name = name
        self._holder = uuid4().hex
        self._stopped = threading.Event()
        self._renewal = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Self:
        """Acquire the lease.

        Raises:
            LeaseHeld: if another process holds it.
            Unavailable: if Redis does not answer.
        """
        if not self._store.acquire_lease(self._name, self._holder):
            raise LeaseHeld(self._name)
        self._renewal.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        self._renewal.join()
        try:
            self._store.release_lease(self._name, self._holder)
        except Unavailable:
            log.warning("lease not released, it will expire", lease=self._name)

    def _renew(self) -> None:
        while not self._stopped.wait(_RENEW_EVERY_S):
            try:
                if not self._store.acquire_lease(self._name, self._holder):
                    log.warning("lease lost", lease=self._name)
            except Unavailable:
                log.warning("lease not renewed", lease=self._name, dependency="redis")
