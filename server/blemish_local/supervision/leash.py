# SPDX-License-Identifier: Apache-2.0
"""Run one command so that neither it nor its descendants outlive the supervisor.

``python leash.py COMMAND...`` leads a process group that contains the command and its descendants. Standard
input is one end of a socket pair. The supervisor holds the other end, which the kernel closes however the
supervisor dies. When the command or the supervisor ends, the leash kills the whole group, including itself.
Before that it sends the command's exit code through the socket; a signal's number is negative.

The kernel's parent-death signal is not sufficient: it reaches only direct children, fires when the parent's
thread ends, and exists only on Linux. A descendant that starts its own session or group leaves the leash,
and its parent must supervise it.

The supervisor runs this file by its path and without site-packages, which starts faster. It may therefore
import only the standard library.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys

COMMAND_NOT_FOUND = 127
"""Exit code of a shell that cannot start a command."""


def main(command: list[str]) -> None:
    """Run the command until it or the supervisor ends, then kill the group."""
    if os.getpgrp() != os.getpid():
        sys.exit("the leash must lead the process group that it kills; start it in a new session")
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
    received: list[int] = []
    # Install the handlers before the command starts, so that an early signal does not end the leash.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: received.append(number))
    # Python writes to the wake-up pipe only for signals with a handler.
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        return COMMAND_NOT_FOUND
    while child.poll() is None:
        while received:
            # Signal only the command. A signal to the group would end a Celery worker's pool during its
            # tasks, instead of letting the worker finish them.
            child.send_signal(received.pop(0))
        readable, _, _ = select.select([lifeline, wake_reader], [], [])
        if lifeline in readable:
            # The supervisor never writes, so this is the end of the file: the supervisor died.
            return None
        os.read(wake_reader, 512)
    return child.returncode


if __name__ == "__main__":
    main(sys.argv[1:])
