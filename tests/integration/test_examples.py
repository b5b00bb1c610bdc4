# SPDX-License-Identifier: Apache-2.0
"""Every program in examples/ runs against the real stack."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.integration.conftest import RunningStack

from blemish_client import Client, Label

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PROGRAMS = {
    "score.py",
    "stream_opencv.py",
    "act_on_verdict.py",
    "train_and_promote.py",
    "search.py",
    "label.py",
    "asyncio_stream.py",
    "grpcurl.sh",
}

Run = Callable[..., list[str]]


@pytest.fixture
def run(stack: RunningStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs an example, and returns its lines."""
    monkeypatch.setenv("BLEMISH_SERVER", stack.address)

    def run(name: str, *arguments: object) -> list[str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def crack(stack: RunningStack) -> Path:
    return stack.surfaces / "tile/test/crack"


def test_page_lists_every_program() -> None:
    assert {file.name for file in EXAMPLES.iterdir() if file.suffix in (".py", ".sh")} == PROGRAMS
    page = (EXAMPLES / "README.md").read_text()
    assert all(f" {name} " in page for name in PROGRAMS)


def test_score(run: Run, tile_model: str, crack: Path) -> None:
    images = sorted(crack.glob("*.png"))
    lines = run("score.py", "tile", *images)
    assert [line.partition(":")[0] for line in lines if not line.startswith(" ")] == list(map(str, images))
    assert any("map 256 x 256, highest pixel" in line for line in lines)
    assert any("anomalous, score" in line for line in lines)
    assert any("defect of" in line for line in lines)


def test_stream_from_opencv(run: Run, tile_model: str, tmp_path: Path) -> None:
    video = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 25, (128, 128))
    for level in (100, 110, 120):
        writer.write(np.full((128, 128, 3), level, np.uint8))
    writer.release()
    lines = run("stream_opencv.py", "tile", video)
    assert [line.partition(":")[0] for line in lines] == ["left 0", "left 1", "left 2"]


def test_act_on_verdict(run: Run, tile_model: str, crack: Path, tmp_path: Path) -> None:
    for file in crack.glob("*.png"):
        shutil.copy(file, tmp_path)
    (tmp_path / "zz.png").write_bytes(b"not an image")
    lines = run("act_on_verdict.py", "tile", tmp_path)
    assert len(lines) == len(list(tmp_path.iterdir())), "each part has a decision"
    assert any(line.startswith("reject 000.png: ") for line in lines)
    assert lines[-1].startswith("reject zz.png: ")


def test_train_and_promote(run: Run, client: Client, stack: RunningStack) -> None:
    lines = run("train_and_promote.py", "example", stack.surfaces / "grid")
    assert lines[0].endswith("images stored, 0 skipped")
    assert "models/example-patchcore/versions/1 is in production, threshold" in lines[-2]
    assert lines[-1].endswith("images indexed")
    client.delete_model("example-patchcore", force=True)
    client.delete_dataset("example")


def test_search(run: Run, tile_model: str, crack: Path) -> None:
    query, *hits = run("search.py", "tile", crack / "000.png")
    assert query.startswith(f"{crack / '000.png'}: score")
    assert len(hits) == 5
    assert " crack test/crack/000.png items/" in hits[0]


def test_label(run: Run, client: Client, tile_model: str) -> None:
    (line,) = run("label.py", "tile", "scratch")
    item = line.partition(":")[0]
    assert f"{item}: CONFIRMED scratch, score" in line
    (labelled,) = client.items("tile", where='label_class = "scratch"')
    assert labelled.item == item
    client.label(item, "tile", Label.NONE)


def test_asyncio_stream(run: Run, tile_model: str, stack: RunningStack) -> None:
    lines = run("asyncio_stream.py", "tile", stack.surfaces / "tile/test/good")
    assert sorted(line.partition(":")[0] for line in lines) == [
        *(f"left {number:03}.png" for number in (0, 2, 4)),
        *(f"right {number:03}.png" for number in (1, 3, 5)),
    ]


def score_by_grpcurl(stack: RunningStack, image: Path, path: str) -> dict[str, object]:
    environment = os.environ | {"BLEMISH_SERVER": stack.address, "PATH": path}
    done = subprocess.run(
        ["sh", EXAMPLES / "grpcurl.sh", "tile", image],
        env=environment,
        check=True,
        capture_output=True,
        timeout=60,
    )
    answer: dict[str, object] = json.loads(done.stdout)["inspection"]
    return answer


def test_command_line_of_grpcurl(stack: RunningStack, tile_model: str, crack: Path, tmp_path: Path) -> None:
    stand_in = tmp_path / "grpcurl"
    stand_in.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "tests/support/grpcurl.py"} "$@"\n')
    stand_in.chmod(0o755)
    answer = score_by_grpcurl(stack, crack / "000.png", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert answer["verdict"] == "VERDICT_ANOMALOUS"
    assert answer["regions"]


@pytest.mark.skipif(shutil.which("grpcurl") is None, reason="grpcurl is not installed")
def test_grpcurl(stack: RunningStack, tile_model: str, crack: Path) -> None:
    answer = score_by_grpcurl(stack, crack / "000.png", os.environ["PATH"])
    assert answer["verdict"] == "VERDICT_ANOMALOUS"
