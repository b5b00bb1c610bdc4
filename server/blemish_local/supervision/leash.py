# SPDX-License-Identifier: Apache-2.0
"""Run one command so that neither it nor its descendants outlive the supervisor.

``python leash.py COMMAND...`` leads a process group of its own; the command and what it
starts live in that group. Standard input is one end of a socket pair whose other end only
the supervisor holds, so the kernel closes it however the supervisor dies. Whatever ends
first, the command or the supervisor, the leash kills the whole group, itself included; the
command's exit code (minus the signal's number if a signal ended it) has been sent through
the socket before.

The kernel's own parent-death signal would not do: it reaches direct children alone, fires
when the parent's *thread* ends, and exists on Linux only. A descendant that starts a
session or group of its own leaves the leash: that one is its parent's to watch.

The supervisor runs this file by its path and without site-packages (20 ms instead of 50),
so it may import the standard library alone.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys

COMMAND_NOT_FOUND = 127
"""What a shell answers when it cannot start a command."""


def main(command: list[str]) -> None:
    if os.getpgrp() != os.getpid():
        sys.exit("the leash must lead its process group, which it kills in the end")
    lifeline = sys.stdin.fileno()
    code = _run(command, lifeline)
    if code is not None:
        with contextlib.suppress(BrokenPipeError):
            os.write(lifeline, str(code).encode())
    os.killpg(0, signal.SIGKILL)


def _run(command: list[str], lifeline: int) -> int | None:
    """Return the command's exit code, or None as soon as the supervisor is gone."""
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    asked: list[int] = []
    # Before the command starts: a request that comes as early as that must not end the leash.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: asked.append(number))
    # Without a handler of Python's, the wake-up pipe stays silent.
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        return COMMAND_NOT_FOUND
    while child.poll() is None:
        while asked:
            # To the command alone: a signal to the whole group would end a Celery worker's
            # pool in the middle of its tasks instead of letting the worker finish them.
            child.send_signal(asked.pop(0))
        readable, _, _ = select.select([lifeline, wake_reader], [], [])
        if lifeline in readable:
            # The supervisor never writes, so this is the end of the file: its death.
            return None
        os.read(wake_reader, 512)
    return child.returncode


if __name__ == "__main__":
    main(sys.argv[1:])
