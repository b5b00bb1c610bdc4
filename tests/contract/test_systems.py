# SPDX-License-Identifier: Apache-2.0
"""Other systems than Linux, imitated by a Python without its modules and functions."""

import subprocess
import sys

import pytest

# Third-party packages have their own code for each system, so they are imported first.
OTHER_SYSTEM = """
import sys
import celery.signals, google.protobuf, grpc, grpc.aio, numpy, PIL.Image, redis
import rich.console, typer, typer.main
import asyncio, importlib.metadata, logging, os, signal, socket, subprocess, tempfile

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "grp", "posix", "pwd", "resource", "termios", "tty"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in ("fcntl", "grp", "posix", "pwd", "resource", "termios", "tty"):
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Missing())
for module, names in {
    os: ("fork", "killpg", "register_at_fork", "sched_getaffinity", "O_NOFOLLOW", "O_DIRECTORY", "geteuid"),
    signal: ("SIGHUP", "SIGKILL", "SIGALRM", "pause"),
    socket: ("AF_UNIX",),
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
sys.platform = "win32"
"""
CLI = "from blemish_client.cli.app import app"


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", OTHER_SYSTEM + script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_client_is_imported_and_reports_a_missing_server() -> None:
    done = run(
        """
import blemish_client, blemish_client.rendering
from blemish_client.errors import Unavailable
from blemish_client.transport.retry import RetryPolicy
with blemish_client.Client("127.0.0.1:1", retry_policy=RetryPolicy(0.01, 0.1)) as client:
    try:
        client.server_info()
    except Unavailable as error:
        print(error)
"""
    )
    assert "cannot connect to 127.0.0.1:1" in done.stdout, done.stderr


def test_command_line_shows_its_help() -> None:
    done = run(f"{CLI}; app(['--help'], prog_name='blemish')")
    assert done.returncode == 0, done.stderr
    assert "Detect defects on surfaces" in done.stdout


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("from blemish_server.__main__ import main; main()", "blemish-server"),
        ("from blemish_workers.__main__ import main; main()", "blemish-worker"),
        ("import blemish_local.__main__", "blemish up"),
        ("from blemish_client.cli.app import app; app(['up'], prog_name='blemish')", "`blemish up`"),
        (
            "from blemish_client.cli.app import app; app(['access', 'list'], prog_name='blemish')",
            "`blemish access`",
        ),
        (
            "from blemish_client.cli.app import app; app(['weights', 'list'], prog_name='blemish')",
            "`blemish weights`",
        ),
        ("from blemish_client.cli.app import app; app(['demo'], prog_name='blemish')", "`blemish up`"),
    ],
)
def test_command_that_needs_linux_exits_with_a_sentence(script: str, command: str) -> None:
    done = run(script)
    assert done.returncode == 2, done.stderr
    assert command in done.stderr
    assert "runs on Linux only, and this system is win32;" in done.stderr
    assert "Traceback" not in done.stderr
