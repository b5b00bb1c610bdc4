# SPDX-License-Identifier: Apache-2.0
"""Run the stack until it is asked to stop, and announce its address."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from blemish_core.platform.files import staged_file
from blemish_core.platform.lossy_output import replace_standard_streams
from blemish_local.address import Address, AddressUnusable, SocketAddress, settle
from blemish_local.data_directory import DataDirectory, DirectoryUnusable, claim
from blemish_local.launching.announcement import announcement
from blemish_local.options import StackOptions
from blemish_local.redis import NoRedisServer
from blemish_local.stack import Stack, compose, shell_script
from blemish_local.supervision.supervisor import Supervisor

STOPPED, SERVICE_FAILED, UNUSABLE = 0, 1, 2


def launch(options: StackOptions) -> int:
    """Run the stack and return the exit code."""
    data = DataDirectory(options.data)
    # Neither a closed terminal or pipe nor a full disk is a reason to stop.
    replace_standard_streams()
    try:
        listen = settle(options.listen)
        with claim(data) as held:
            stack = _compose(options, data, listen)
            return asyncio.run(_supervise(options, data, listen, stack, held))
    except (AddressUnusable, DirectoryUnusable) as error:
        _warn(f"blemish up: {error}")
        return UNUSABLE
    except NoRedisServer as error:
        _warn(f"blemish up: {error}")
        return SERVICE_FAILED
    except KeyboardInterrupt:
        # The supervisor handles signals from its start on, so nothing was started yet.
        return STOPPED


def _compose(options: StackOptions, data: DataDirectory, listen: Address | SocketAddress) -> Stack:
    """Choose the services, and write their configuration.

    Raises:
        DirectoryUnusable: if the configuration cannot be written.
    """
    try:
        return compose(options, data, listen)
    except OSError as error:
        raise DirectoryUnusable(
            f"{error.filename or data.root} cannot be written ({error.strerror}); free some space, or "
            "choose another folder with --data"
        ) from error


async def _supervise(
    options: StackOptions, data: DataDirectory, listen: Address | SocketAddress, stack: Stack, held: int
) -> int:
    report = _ignore if options.quiet else _print
    environment_file = data.run / "environment.sh"
    run_files = [environment_file]
    if options.address_file is not None:
        run_files.append(options.address_file)

    def on_ready() -> None:
        _write_or_warn(environment_file, shell_script(stack.variables))
        if options.address_file is not None:
            _write_or_warn(options.address_file, f"{listen.to_connect}\n")
        report(announcement(options, data, listen, stack))

    _remove(run_files)
    supervisor = Supervisor(stack, held, report, _warn)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under nohup SIGHUP is ignored and must stay so.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, supervisor.request_stop)
    if options.stop_with_stdin:
        _call_at_end_of_stdin(loop, supervisor.request_stop)
    try:
        return STOPPED if await supervisor.run(on_ready) else SERVICE_FAILED
    finally:
        _remove(run_files)


def _call_at_end_of_stdin(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    stdin = sys.stdin.fileno()

    def read() -> None:
        if not os.read(stdin, 4096):
            loop.remove_reader(stdin)  # it stays readable, and a second request would kill the services
            stop()

    loop.add_reader(stdin, read)


def _write_or_warn(path: Path, text: str) -> None:
    """Write a file at once, so that no reader sees a part of it. A failure does not stop the stack."""
    try:
        _write_atomically(path, text)
    except OSError as error:
        _warn(f"blemish up: cannot write {path} ({error.strerror}); free some space and start again")


def _write_atomically(path: Path, text: str) -> None:
    def private(name: str, flags: int) -> int:
        return os.open(name, flags, 0o600)  # the environment contains the broker's password

    with staged_file(path, durable=False) as staged, open(staged, "x", opener=private) as file:
        file.write(text)


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _print(text: str) -> None:
    print(text, flush=True)


def _ignore(_text: str) -> None:
    pass


def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
