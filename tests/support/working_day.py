# SPDX-License-Identifier: Apache-2.0
"""Commands typed on a working day, with what they print.

    python -m tests.support.working_day [--frames 500]

writes docs/guides/a-day.md from a day on a stack of its own.
tests/integration/test_working_day.py works the same day.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from tests.support.running_stack import running_stack

from blemish_client.demo.surfaces import generate

_PAGE = Path(__file__).parents[2] / "docs/guides/a-day.md"
_HEAD = """# A working day

<!-- Written by `python -m tests.support.working_day`; change that module instead. -->

These are the commands of a vision engineer and an operator on one day, with their output. The folder \
`plates` has drawn images, and `line` the {frames} frames of a shift, {defects} of them with defects. The \
server runs on this machine, as [Getting started](../getting-started.md) shows.

"""

_WIDTH = 108
"""Columns of the terminal, so that the page holds its lines."""
_MOST_LINES = 40
"""Longest output that the page shows whole."""
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")
_TIMEOUT_S = 200


@dataclass(frozen=True)
class Note:
    """A heading and sentences of the page."""

    heading: str
    text: str


@dataclass(frozen=True)
class Typed:
    """A command, what was typed into it, and all that it printed."""

    command: str
    stdin: str
    output: str
    exit_code: int


class Shell:
    """Runs commands in a folder against a server, and keeps a transcript."""

    def __init__(self, server: str, folder: Path) -> None:
        """Run commands in ``folder`` against the server at ``server``."""
        self.folder = folder
        self.transcript: list[Note | Typed] = []
        self._environment = os.environ | {
            "BLEMISH_SERVER": server,
            "COLUMNS": str(_WIDTH),
            "NO_COLOR": "1",
            "TERM": "dumb",
        }

    def note(self, heading: str, text: str) -> None:
        """Add a heading and sentences to the transcript."""
        self.transcript.append(Note(heading, text))

    def run(self, command: str, *, stdin: str = "", exit_code: int = 0, hidden: bool = False) -> str:
        """Run ``blemish COMMAND``, keep it in the transcript unless it is hidden, and return its output.

        Raises:
            AssertionError: if it exits with another code.
        """
        ended = subprocess.run(
            [sys.executable, "-m", "blemish_client.cli", *shlex.split(command)],
            cwd=self.folder,
            env=self._environment,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TIMEOUT_S,
        )
        output = _COLOURS.sub("", ended.stdout)
        if not hidden:
            self.transcript.append(Typed(f"blemish {command}", stdin, output, ended.returncode))
        assert ended.returncode == exit_code, f"blemish {command}: {ended.returncode}\n{output}"
        return output

    def __str__(self) -> str:
        """Return the transcript in Markdown."""
        parts = []
        for each in self.transcript:
            if isinstance(each, Note):
                parts.append(f"## {each.heading}\n\n{each.text}\n")
                continue
            lines = [line.rstrip() for line in each.output.strip("\n").splitlines()]
            if len(lines) > _MOST_LINES:
                left_out = len(lines) - _MOST_LINES + 10
                lines = [*lines[: _MOST_LINES - 20], f"... {left_out} more lines ...", *lines[-10:]]
            typed = "".join(f"\n> {line}" for line in each.stdin.splitlines() if f"> {line}" not in lines)
            code = f"\n(exit code {each.exit_code})" if each.exit_code else ""
            parts.append("```text\n" + f"$ {each.command}{typed}\n" + "\n".join(lines) + f"{code}\n```\n")
        return "\n".join(parts)


_SEED = 11
_DEFECTS = 12
"""Frames with a defect in a shift."""
_REVIEWED = 3
"""Frames that are labelled in a review; a file labels the others."""
_MODEL = "plates-patchcore"
_PARTLY = 7
"""Exit code of a command that left out some images."""


def prepare(folder: Path, frames: int) -> None:
    """Draw what the day needs: ``plates``, a folder of images, and ``line``, the frames of a shift.

    A good training image is also a test image, one file is no image, and 12 frames have defects.
    """
    generate(folder / "plates", "tile", seed=7, train=24, good=6, defective=8, size=128)
    good, tests = folder / "plates/train/good", folder / "plates/test/good"
    (tests / "copy.png").write_bytes((good / "003.png").read_bytes())
    (good / "unfinished.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    unseen = folder / "unseen"
    generate(unseen, "tile", seed=_SEED, train=0, good=20, defective=_DEFECTS, size=128)
    shown = sorted((unseen / "test/good").glob("*.png"))
    defective = [each for each in sorted((unseen / "test").glob("*/*.png")) if each not in shown]
    random = np.random.default_rng(_SEED)
    at = sorted(random.choice(frames, _DEFECTS, replace=False).tolist())
    line = folder / "line"
    line.mkdir()
    for number in range(frames):
        source = defective[at.index(number)] if number in at else shown[number % len(shown)]
        kind = f"_{source.parent.name}" if number in at else ""
        (line / f"frame_{number:04}{kind}.png").write_bytes(source.read_bytes())


def work_a_day(shell: Shell) -> None:
    """Do a day's work: import, train, set the threshold, run a shift, review it, and train again.

    Raises:
        AssertionError: if a command exits with an unexpected code, or prints something else.
    """
    _prepare_a_model(shell)
    _run_a_shift(shell)
    _review(shell)
    _train_again(shell)


def _prepare_a_model(shell: Shell) -> None:
    shell.note(
        "Upload images",
        "One file of the folder is no image. It is named, everything else is stored, and the exit code is "
        "7. A training image that is a test image too is reported, and left out of the figures.",
    )
    uploaded = shell.run("dataset upload plates plates", exit_code=_PARTLY)
    assert "unfinished.png" in uploaded
    assert "test/good/copy.png = train/good/003.png" in uploaded
    shell.note(
        "Train a model", "The plan comes first, then the figures at the threshold. The log has the details."
    )
    trained = shell.run("train plates --promote")
    assert f"models/{_MODEL}/versions/1 is in production and judges by threshold" in trained
    assert "conclusion" in shell.run("jobs logs latest")
    shell.note(
        "Look for bad images",
        "The good images with the highest scores may be defective. One of them is removed, so that the "
        "next version learns without it.",
    )
    suspect = re.findall(r"train/good/\d+\.png", shell.run("dataset suspects plates --limit 3"))[0]
    shell.run(f"dataset remove plates {suspect} --yes")
    shell.note(
        "Set the threshold",
        "A dry run shows what a change would do to stored scores. A threshold that rejects everything has "
        "to be confirmed.",
    )
    shell.run(f"models calibrate {_MODEL} --false-reject-rate 0.1 --dry-run")
    assert "pass --yes" in shell.run(f"models calibrate {_MODEL} --threshold -5", exit_code=2)
    card = json.loads(shell.run(f"models show {_MODEL} --json", hidden=True))
    fixed = 1.01 * card["calibration"]["threshold"]
    shell.run(f"models calibrate {_MODEL} --threshold {fixed:.2f} --comment 'fewer false rejects'")
    assert f"at threshold {fixed:.2f}" in shell.run(f"models show {_MODEL}", hidden=True)


def _run_a_shift(shell: Shell) -> None:
    shell.note(
        "Inspect a shift",
        "The frames come from a folder here. The server keeps anomalous ones for search. A picture and the "
        "whole answer are saved for each.",
    )
    shell.run(f"stream line -m {_MODEL} --camera line-3 --store anomalous --save found")
    assert "line-3" in shell.run("info")


def _review(shell: Shell) -> None:
    found = [json.loads(file.read_text()) for file in sorted((shell.folder / "found").glob("*.json"))]
    kinds = {each["item"]: re.findall(r"frame_\d+_(\w+)\.png", each["image"]) for each in found}
    assert len(found) >= _DEFECTS // 2
    for _ in range(60):  # frames are indexed in the background
        listed = shell.run(f"items -m {_MODEL} --json", hidden=True)
        if len(listed.splitlines()) == len(kinds):
            break
        time.sleep(0.5)
    shell.note(
        "Review the shift",
        "Frames without a label are listed, the highest score first. A review draws them on a contact "
        "sheet, and asks about one after the other. A file labels many at once, and so would a filter.",
    )
    shown = shell.run(f"items -m {_MODEL} --since 8h --sort score --label unlabelled")
    assert all(item.removeprefix("items/")[:8] in shown for item in kinds)
    by_score = [
        json.loads(line)["item"]
        for line in shell.run(f"items -m {_MODEL} --sort score --json", hidden=True).splitlines()
    ]
    seen, left = by_score[:_REVIEWED], by_score[_REVIEWED:]
    answers = [f"d {kinds[item][0]}" if kinds[item] else "f" for item in seen]
    reviewed = shell.run(
        f"review -m {_MODEL} --since 8h --sort score --sheet night.png",
        stdin="\n".join([answers[0], "b", *answers, "q"]) + "\n",
    )
    assert f"{_REVIEWED} of {len(kinds)} frames labelled" in reviewed
    assert (shell.folder / "night.png").is_file()
    rows = [
        f"{item},confirmed,{kinds[item][0]}" if kinds[item] else f"{item},false-alarm," for item in left
    ]
    (shell.folder / "labels.csv").write_text("\n".join(["item,label,class", *rows]) + "\n")
    assert f"labelled {len(left)} of {len(left)} items" in shell.run(f"label -m {_MODEL} --file labels.csv")
    shell.run(f"summary -m {_MODEL} --since 8h")
    shell.note(
        "Learn from the line",
        "Confirmed frames become test images, with their origin. They can also be exported with all their "
        "fields.",
    )
    shell.run(f'items add-to plates -m {_MODEL} --split test --where "label = confirmed"')
    shell.run(f'items export handover -m {_MODEL} --where "label = confirmed"')
    confirmed = sum(map(bool, kinds.values()))
    assert len(list((shell.folder / "handover").glob("*.json"))) == confirmed


def _train_again(shell: Shell) -> None:
    shell.note(
        "Promote the next version",
        "Both versions are compared on the images of today. A threshold that a person set is never "
        "replaced without a choice. An older version comes back by the same command.",
    )
    shell.run("train plates")
    compared = shell.run(f"models compare {_MODEL}/1 {_MODEL}/latest --dataset plates")
    assert "image AUROC" in compared
    assert "--keep-target" in shell.run(f"models promote {_MODEL}/latest", exit_code=2)
    shell.run(f"models promote {_MODEL}/latest --keep-target")
    shell.run(f"models promote {_MODEL}/1 --yes")
    assert "PromoteModel" in shell.run("audit --since 8h", hidden=True)


def main() -> None:
    """Work a day on a stack of its own, and write the page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--frames", type=int, default=500, help="frames of the shift")
    frames = parser.parse_args().frames
    with TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, frames)
        with (folder / "log").open("wb") as log, running_stack(folder / "stack", folder, log) as stack:
            shell = Shell(stack.address, folder)
            work_a_day(shell)
    _PAGE.write_text(_HEAD.format(frames=frames, defects=_DEFECTS) + str(shell))


if __name__ == "__main__":
    main()
