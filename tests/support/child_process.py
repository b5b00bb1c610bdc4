# SPDX-License-Identifier: Apache-2.0
"""Child processes and slots that follow a script instead of starting a process."""

from collections.abc import Callable, Iterable

from blemish_core.jobs.messages import FromChild, ToChild
from blemish_workers.runner.child_process import ChildDied, ChildProcess
from blemish_workers.runner.slots import Slot

ScriptStep = FromChild | str | Callable[[], object] | None
"""A message, a cause of death, a function to call meanwhile, or None for silence."""


class FakeChildProcess(ChildProcess):
    """A child that sends the messages of a script."""

    def __init__(self, script: Iterable[ScriptStep]) -> None:
        self._script = iter(script)
        self._unread_lines = ["a line"]
        self.sent: list[ToChild] = []
        """Messages from the worker."""

    def send(self, message: ToChild) -> None:
        self.sent.append(message)

    def receive(self, timeout_s: float) -> FromChild | None:
        step = next(self._script, None)
        if isinstance(step, str):
            raise ChildDied(step)
        if callable(step):
            step()
            return None
        return step

    def lines(self) -> list[str]:
        lines, self._unread_lines = self._unread_lines, []
        return lines

    def memory_bytes(self) -> int:
        return 100 << 20


class FakeSlot(Slot):
    """A slot whose children follow one script after the other."""

    def __init__(self, *scripts: Iterable[ScriptStep]) -> None:
        self._scripts = list(scripts)
        self._fake: FakeChildProcess | None = None
        self.children: list[FakeChildProcess] = []
        self.kills = 0
        """Number of children killed."""

    def child(self) -> FakeChildProcess:
        if self._fake is None:
            self._fake = FakeChildProcess(self._scripts.pop(0) if self._scripts else ())
            self.children.append(self._fake)
        return self._fake

    def close(self) -> None:
        self.kills += 1
        self._fake = None

    def recycle(self) -> None: ...
