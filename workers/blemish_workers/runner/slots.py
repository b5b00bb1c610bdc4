# SPDX-License-Identifier: Apache-2.0
"""Places for one job each, with a child process that is kept warm for the next one."""

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from blemish_workers.runner.child_process import ChildProcess


class Slot:
    """A place for one job at a time, with a child that is kept warm for the next."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._child: ChildProcess | None = None

    @property
    def device(self) -> str:
        """What its child computes on; what it is told until the first one has said so."""
        if self._child is not None and self._child.device:
            self._device = self._child.device
        return self._device

    def child(self) -> ChildProcess:
        """Return a living child: the one that is there, or a new one."""
        if self._child is not None and not self._child.alive:
            self.close()
        if self._child is None:
            self._child = ChildProcess(self.device)
        return self._child

    def tidy(self) -> None:
        """Have a child ready for the next job, without the memory that the last one took."""
        if self.child().swollen():
            self.close()
            self.child()

    def close(self) -> None:
        """End the child, whatever it does."""
        if self._child is not None:
            self._device = self.device
            self._child.kill()
            self._child = None


class Slots:
    """One slot for each of ``devices``. Safe to share between threads."""

    def __init__(self, devices: Sequence[str]) -> None:
        self._all = [Slot(device) for device in devices]
        self._free: queue.LifoQueue[Slot] = queue.LifoQueue()
        self._jobs: dict[Slot, str] = {}
        self._lock = threading.Lock()
        for slot in reversed(self._all):
            self._free.put(slot)

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(slot.device for slot in self._all)

    @property
    def idle(self) -> bool:
        """Whether a job that comes now would be taken at once."""
        return not self._free.empty()

    def jobs(self) -> tuple[str, ...]:
        """The jobs that are worked on."""
        with self._lock:
            return tuple(self._jobs.values())

    @contextmanager
    def taken(self, job: str) -> Iterator[Slot]:
        """Take a slot for a job; there is one for each thread that Celery has."""
        slot = self._free.get()
        with self._lock:
            self._jobs[slot] = job
        try:
            yield slot
        finally:
            with self._lock:
                del self._jobs[slot]
            self._free.put(slot)

    def warm(self) -> None:
        """Start the children."""
        for slot in self._all:
            slot.child()

    def close(self) -> None:
        """End the children."""
        for slot in self._all:
            slot.close()
