# SPDX-License-Identifier: Apache-2.0
"""One part of the stack as a running process: started on a leash, asked until ready, stopped."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from blemish_local.supervision import leash
from blemish_local.supervision.log import Log
from blemish_local.supervision.probes import NotYet, Probe

_ASK_EVERY_S = 0.1


class PartFailed(Exception):
    """A part does not run; the text names it, its end, its log, and the cure."""


@dataclass(frozen=True)
class Part:
    """What has to run, and how to know that it does."""

    name: str
    what: str
    """For the line that says it is ready: which program, and where from."""
    command: tuple[str, ...]
    environment: Mapping[str, str]
    """All of it: nothing is inherited beside."""
    directory: Path
    """The working directory, made if missing."""
    log: Path
    probe: Probe
    cure: str
    """What a person can do when it does not start."""
    ready_within_s: float = 180.0
    ready_file: Path | None = None
    """What the part writes when ready; one of an earlier run is removed."""
    grace_s: float = 0.0
    """What it may take to end when it is asked to, if that is longer than others may."""


class Service:
    """Runs ``part``, one process at a time. ``held`` is a descriptor that the leash keeps open."""

    def __init__(self, part: Part, held: int) -> None:
        self.part = part
        self._held = held
        self._log = Log(part.log)
        self._log_begin = 0
        self._leash: subprocess.Popen[bytes] | None = None
        self._end: asyncio.Task[int] | None = None
        self._ready_at: float | None = None

    @property
    def healthy_s(self) -> float:
        """How long ago the present run became ready; 0 if it did not."""
        return 0.0 if self._ready_at is None else time.monotonic() - self._ready_at

    async def start(self) -> float:
        """Start the process and return the seconds it took to be ready.

        Raises:
            PartFailed: if it ended or was not ready in time; then nothing of it runs any more.
        """
        begin = time.monotonic()
        try:
            end = self._spawn()
        except OSError as error:
            raise PartFailed(
                f"{self.part.name} could not be started ({error}).\n  cure: {self.part.cure}"
            ) from error
        reason = "it was not asked yet"
        while time.monotonic() - begin < self.part.ready_within_s:
            try:
                await self.part.probe()
            except NotYet as error:
                reason = str(error)
            else:
                # Something else may answer in its place: on the port that it failed to get.
                if not end.done():
                    self._ready_at = time.monotonic()
                    return self._ready_at - begin
            await asyncio.wait({end}, timeout=_ASK_EVERY_S)
            if end.done():
                raise PartFailed(self.report(f"did not start: {self.how_it_ended()}"))
        self.kill()
        await end
        raise PartFailed(self.report(f"was not ready within {self.part.ready_within_s:.0f} s: {reason}"))

    async def ended(self) -> None:
        """Return when the present run is over."""
        if self._end is not None:
            await asyncio.shield(self._end)

    async def stop(self, grace_s: float) -> bool:
        """Ask the process to end, kill its group after ``grace_s``; return whether it obeyed."""
        if self._leash is None or self._end is None or self._end.done():
            return True
        # The leash hands it on to the process alone; see there.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._leash.pid, signal.SIGTERM)
        await asyncio.wait({self._end}, timeout=grace_s)
        if self._end.done():
            return True
        self.kill()
        await self._end
        return False

    def kill(self) -> None:
        """End the process and all its descendants in its group at once."""
        if self._leash is not None and self._end is not None and not self._end.done():
            _kill_group(self._leash.pid)

    def how_it_ended(self) -> str:
        if self._end is None or not self._end.done():
            return "it runs"
        code = self._end.result()
        if code >= 0:
            return f"it ended with exit code {code}"
        try:
            return f"it was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"it was killed by signal {-code}"

    def report(self, what_happened: str) -> str:
        """Return a message of several lines: what happened, the end of the log, the cure."""
        lines = [f"{self.part.name} {what_happened}."]
        lines += [f"    {line}" for line in self._log.tail(self._log_begin)]
        lines += [f"  log:  {self.part.log}", f"  cure: {self.part.cure}"]
        return "\n".join(lines)

    def _spawn(self) -> "asyncio.Task[int]":
        self._ready_at = None
        self.part.directory.mkdir(parents=True, exist_ok=True)
        if self.part.ready_file is not None:
            self.part.ready_file.unlink(missing_ok=True)
        output, self._log_begin = self._log.open_for_run()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with output, theirs:
            try:
                self._leash = subprocess.Popen(
                    # Isolated: this package's folder must not shadow modules, and the leash
                    # must start the same whatever the environment of its command says.
                    [sys.executable, "-I", "-S", leash.__file__, *self.part.command],
                    stdin=theirs.fileno(),
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=dict(self.part.environment),
                    cwd=self.part.directory,
                    pass_fds=(self._held,),
                    # Out of the terminal's reach: Ctrl-C comes through the supervisor.
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        self._end = asyncio.create_task(_end_of(self._leash, ours))
        return self._end


async def _end_of(running: subprocess.Popen[bytes], lifeline: socket.socket) -> int:
    """Return the exit code of the leash's command once its group was killed."""
    with lifeline:
        report = await asyncio.get_running_loop().sock_recv(lifeline, 32)
    # Before the leash is reaped: until then its group's number cannot be another's.
    _kill_group(running.pid)
    code = running.wait()
    return int(report) if report else code


def _kill_group(leader: int) -> None:
    # macOS says "not permitted" of a group that holds only zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
