# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from pathlib import Path

import pytest

from blemish_core.platform.lossy_output import LossyOutput

FULL = Path("/dev/full")
LOGS = """
import logging, sys, warnings
import structlog
from blemish_core.platform import logs
from blemish_core.platform.lossy_output import lost_lines

early = structlog.get_logger("early")
logs.configure()

class Unprintable:
    def __repr__(self):
        raise ValueError("not printable")

early.info("call rejected", reason="NOT_FOUND")
try:
    raise KeyError("a bug")
except KeyError:
    structlog.get_logger("late").exception("call failed")
structlog.get_logger().info("odd", value=Unprintable())
logging.getLogger("library").error("library failed")
warnings.warn("library warned")
print("printed")
print("printed", file=sys.stderr, flush=True)
open(sys.argv[1], "w").write(str(lost_lines()))
"""


def run(output: int, counted: Path) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-c", LOGS, str(counted)]
    return subprocess.run(command, stdout=output, stderr=output, check=False, timeout=60)


@pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")
def test_log_on_a_full_disk_raises_nothing(tmp_path: Path) -> None:
    with FULL.open("wb") as full:
        ended = run(full.fileno(), tmp_path / "lost")

    assert ended.returncode == 0
    assert int((tmp_path / "lost").read_text()) >= 6


def test_log_to_a_closed_pipe_raises_nothing(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = run(writer, tmp_path / "lost")
    finally:
        os.close(writer)

    assert ended.returncode == 0
    assert int((tmp_path / "lost").read_text()) >= 6


def test_record_that_cannot_be_formatted_is_named(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        ended = run(log.fileno(), tmp_path / "lost")

    lines = (tmp_path / "log").read_text()
    assert ended.returncode == 0
    assert "log record 'odd' not written: ValueError" in lines
    assert "call rejected" in lines
    assert "library failed" in lines
    assert (tmp_path / "lost").read_text() == "0"


@pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")
def test_lines_lost_while_a_disk_was_full_are_counted_in_the_log(tmp_path: Path) -> None:
    descriptor = os.open(FULL, os.O_WRONLY)
    output = LossyOutput(descriptor)
    text = output.as_text()
    print("lost", file=text)
    print("lost too", file=text)
    with (tmp_path / "log").open("wb") as log:
        os.dup2(log.fileno(), descriptor)

    print("space again", file=text)
    print("more", file=text)

    assert (tmp_path / "log").read_text() == "2 log lines were lost\nspace again\nmore\n"
    assert output.lost == 2
    os.close(descriptor)
