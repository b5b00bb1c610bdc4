# SPDX-License-Identifier: Apache-2.0
"""The slots of a worker. A slot runs one job at a time in a child process that it keeps."""

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from blemish_workers.runner.child_process import ChildProcess


class Slot:
    """A place for one job at a time, with its child process."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._child: ChildProcess | None = None

    @property
    def device(self) -> str:
        """Device that the child computes on; the configured one until a child has reported it."""
        if self._child is not None and self._child.device:
            self._device = self._child.device
        return self._device

    def child(self) -> ChildProcess:
        """Return the running child; start one if there is none."""
        if self._child is not None and not self._child.alive:
            self.close()
        if self._child is None:
            self._child = ChildProcess(self.device)
        return self._child

    def recycle(self) -> None:
        """Prepare for the next job: replace a child that holds too much memory or has died."""
        if self.child().holds_excess_memory():
            self.close()
            self.child()

    def close(self) -> None:
        """Kill the child, even during a step."""
        if self._child is not None:
            self._device = self.device
            self._child.kill()
            self._child = None


class Slots:
    """The slots of a worker, one for each of ``devices``. Safe to share between threads."""

    def __init__(self, devices: Sequence[str]) -> None:
        self._all = [Slot(device) for device in devices]
        self._free: queue.LifoQueue[Slot] = queue.LifoQueue()
        self._jobs: dict[Slot, str] = {}
        self._lock = threading.Lock()
        for slot in reversed(self._all):
            self._free.put(slot)

    @property
    def devices(self) -> tuple[str, ...]:
        """Device of each slot."""
        return tuple(slot.device for slot in self._all)

    @property
    def has_free(self) -> bool:
        """True if a job would start at once."""
        return not self._free.empty()

    def jobs(self) -> tuple[str, ...]:
        """Return the ids of the running jobs."""
        with self._lock:
            return tuple(self._jobs.values())

    @contextmanager
    def acquire(self, job: str) -> Iterator[Slot]:
        """Acquire a slot for a job; Celery has as many threads as there are slots."""
        slot = self._free.get()
        with self._lock:
            self._jobs[slot] = job
        try:
            yield slot
        finally:
            with self._lock:
                del self._jobs[slot]
            self._free.put(slot)

    def start_children(self) -> None:
        """Start a child in each slot, so that the first jobs do not wait for it."""
        for slot in self._all:
            slot.child()

    def close(self) -> None:
        """Kill all children."""
        for slot in self._all:
            slot.close()
