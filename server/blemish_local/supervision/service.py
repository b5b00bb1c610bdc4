# SPDX-License-Identifier: Apache-2.0
"""One service as a running process: started on a leash, probed until it is ready, and stopped."""

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
from blemish_local.supervision.log import ServiceLog
from blemish_local.supervision.probes import NotReady, Probe

_PROBE_EVERY_S = 0.1


class ServiceFailed(Exception):
    """A service that does not run; the text contains its exit status, the end of its log, and advice."""


@dataclass(frozen=True)
class ServiceSpec:
    """The command of a service and the way to recognize that it is ready."""

    name: str
    description: str
    """Program and its origin, for messages."""
    command: tuple[str, ...]
    environment: Mapping[str, str]
    """Complete environment; nothing is inherited."""
    directory: Path
    """Working directory, created if missing."""
    log: Path
    probe: Probe
    remedy: str
    """Advice for the case that it does not start."""
    ready_within_s: float = 180.0
    ready_file: Path | None = None
    """File that the service writes when it is ready; it is removed before each start."""
    is_optional: bool = False
    """Flag of a service without which the stack starts and goes on."""
    grace_s: float = 0.0
    """Time to end after a request to stop, if longer than the supervisor's."""


class ServiceProcess:
    """A service, which runs as one process at a time.

    The leash inherits the descriptor ``held``, which claims the data folder.
    """

    def __init__(self, spec: ServiceSpec, held: int) -> None:
        self.spec = spec
        self._held = held
        self._log = ServiceLog(spec.log)
        self._log_begin = 0
        self._leash: subprocess.Popen[bytes] | None = None
        self._end: asyncio.Task[int] | None = None
        self._ready_at: float | None = None

    @property
    def healthy_s(self) -> float:
        """Time since the current run became ready, in seconds; 0 if it did not."""
        return 0.0 if self._ready_at is None else time.monotonic() - self._ready_at

    @property
    def session_id(self) -> int:
        """The session that contains the leash, the process and its descendants.

        Raises:
            RuntimeError: if the service was never started.
        """
        if self._leash is None:
            raise RuntimeError(f"{self.spec.name} was never started; call start first")
        return self._leash.pid

    async def start(self) -> float:
        """Start the process and return the time until it was ready, in seconds.

        Raises:
            ServiceFailed: if it ended or was not ready in time; no process of it is left.
        """
        begin = time.monotonic()
        try:
            end = self._spawn()
        except OSError as error:
            raise ServiceFailed(
                f"{self.spec.name} could not be started ({error}).\n  remedy: {self.spec.remedy}"
            ) from error
        reason = "it was not probed"
        while time.monotonic() - begin < self.spec.ready_within_s:
            try:
                await self.spec.probe()
            except NotReady as error:
                reason = str(error)
            else:
                # If the service ended, another process answered on the port that it failed to bind.
                if not end.done():
                    self._ready_at = time.monotonic()
                    return self._ready_at - begin
            await asyncio.wait({end}, timeout=_PROBE_EVERY_S)
            if end.done():
                raise ServiceFailed(self.report(f"did not start: {self.exit_status()}"))
        self.kill()
        await end
        raise ServiceFailed(self.report(f"was not ready within {self.spec.ready_within_s:.0f} s: {reason}"))

    async def ended(self) -> None:
        """Return when the current run is over."""
        if self._end is not None:
            await asyncio.shield(self._end)

    async def stop(self, grace_s: float) -> bool:
        """Ask the process to end and kill its group after ``grace_s``; return False if it was killed."""
        if self._leash is None or self._end is None or self._end.done():
            return True
        # The leash forwards the signal to the process only.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._leash.pid, signal.SIGTERM)
        await asyncio.wait({self._end}, timeout=grace_s)
        if self._end.done():
            return True
        self.kill()
        await self._end
        return False

    def kill(self) -> None:
        """Kill the process and the descendants in its group."""
        if self._leash is not None and self._end is not None and not self._end.done():
            _kill_group(self._leash.pid)

    def exit_status(self) -> str:
        """Describe how the last run ended."""
        if self._end is None or not self._end.done():
            return "it is running"
        code = self._end.result()
        if code >= 0:
            return f"it ended with exit code {code}"
        try:
            return f"it was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"it was killed by signal {-code}"

    def report(self, event: str) -> str:
        """Return a message of several lines: the event, the end of the log, and advice."""
        lines = [f"{self.spec.name} {event}."]
        lines += [f"    {line}" for line in self._log.tail(self._log_begin)]
        lines += [f"  log:    {self.spec.log}", f"  remedy: {self.spec.remedy}"]
        return "\n".join(lines)

    def _spawn(self) -> "asyncio.Task[int]":
        self._ready_at = None
        self.spec.directory.mkdir(parents=True, exist_ok=True)
        if self.spec.ready_file is not None:
            self.spec.ready_file.unlink(missing_ok=True)
        output, self._log_begin = self._log.open_for_run()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with output, theirs:
            try:
                self._leash = subprocess.Popen(
                    # Isolated (-I): this package's folder must not shadow modules, and the command's
                    # environment must not affect the leash.
                    [sys.executable, "-I", "-S", leash.__file__, *self.spec.command],
                    stdin=theirs.fileno(),
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=dict(self.spec.environment),
                    cwd=self.spec.directory,
                    pass_fds=(self._held,),
                    # A new session is out of the terminal's reach: Ctrl-C comes through the supervisor.
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        self._end = asyncio.create_task(_end_of(self._leash, ours))
        return self._end


async def _end_of(running: subprocess.Popen[bytes], lifeline: socket.socket) -> int:
    """Kill the group when the leash reports, and return the exit code of its command."""
    with lifeline:
        report = await asyncio.get_running_loop().sock_recv(lifeline, 32)
    # Kill the group before the leash is reaped, because its number may be reused afterwards.
    _kill_group(running.pid)
    code = running.wait()
    return int(report) if report else code


def _kill_group(leader: int) -> None:
    # macOS reports "not permitted" for a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
