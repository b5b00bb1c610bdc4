# SPDX-License-Identifier: Apache-2.0
"""``blemish stream``."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, AnomalyMap
from blemish_client import FrameResult
from blemish_client.cli.app import app

if TYPE_CHECKING:
    from tests.clients.conftest import Fake, Make

Run = Callable[..., Result]


@pytest.fixture
def run(target: str) -> Run:
    def invoke(*arguments: Any) -> Result:
        given = ["--server", target, "stream", *map(str, arguments), "-m", "m"]
        return CliRunner().invoke(app, given, catch_exceptions=False)

    return invoke


@pytest.fixture
def folder(tmp_path: Path, make: "Make") -> Path:
    """Six images, of which one is the mask of another."""
    make.folder(tmp_path / "line")
    return tmp_path / "line"


def anomalous(map_side: int = 0) -> pb.ScoreStreamResponse:
    answer = pb.ScoreStreamResponse(inspection=pb.Inspection(score=9.0, verdict=VERDICT_ANOMALOUS))
    if map_side:
        values = b"\0\0\0\0" * map_side**2
        answer.inspection.anomaly_map.CopyFrom(AnomalyMap(width=map_side, height=map_side, values=values))
    return answer


def test_it_counts_what_was_said(run: Run, fake: "Fake", folder: Path) -> None:
    refused = pb.ScoreStreamResponse(refusal=pb.FrameRefusal(code=3, message="not an image"))
    fake.streams = [[anomalous(), refused]]
    result = run(folder / "test")
    assert result.exit_code == 0
    names, figures = (line.split() for line in result.stdout.splitlines() if line.strip(" ─"))
    assert names[-5:] == ["normal", "anomalous", "dropped", "refused", "lost"]
    assert figures[-5:] == ["0", "1", "0", "1", "0"]
    (config,) = fake.requests["ScoreStream"]
    assert config.policy == pb.STREAM_POLICY_BLOCK  # files can wait
    assert not config.outputs.anomaly_map


def test_json_is_one_object_a_frame(run: Run, folder: Path) -> None:
    result = run(folder / "train", "--json", "--camera", "left", "--policy", "latest")
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(one["camera"], one["sequence"]) for one in told] == [("left", str(n)) for n in range(3)]
    assert all(one["latency_ms"] > 0 for one in told)


def test_settings_reach_the_server(run: Run, fake: "Fake", folder: Path) -> None:
    given = ("--policy", "reject", "--max-latency-ms", "250", "--target-false-reject-rate", "0.01")
    assert run(folder / "test", *given).exit_code == 0
    (config,) = fake.requests["ScoreStream"]
    assert config.policy == pb.STREAM_POLICY_REJECT
    assert config.max_latency.ToMilliseconds() == 250
    assert config.target_false_reject_rate == 0.01


def test_anomalous_frames_are_drawn(run: Run, fake: "Fake", folder: Path, tmp_path: Path) -> None:
    fake.streams = [[None, anomalous(8)]]
    result = run(folder / "test", "--save", tmp_path / "found", "--fail-on-anomaly")
    assert result.exit_code == 1
    assert [file.name for file in (tmp_path / "found").iterdir()] == ["00000001.png"]


def test_what_is_no_source_is_said(run: Run, tmp_path: Path) -> None:
    result = run(tmp_path / "nothing")
    assert result.exit_code == 2
    assert "there is no" in result.stderr


def test_a_refused_stream_is_said(run: Run, fake: "Fake", folder: Path, make: "Make") -> None:
    fake.refusals["ScoreStream"] = [make.refusal(grpc.StatusCode.NOT_FOUND, "no such model", "NOT_FOUND")]
    result = run(folder / "test")
    assert result.exit_code == 3
    assert "no such model" in result.stderr


def test_drawing_holds_back_who_can_wait_and_skips_for_who_cannot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from blemish_client.cli.commands import stream

    gate, drawn = threading.Event(), []

    def slow(content: bytes, inspection: pb.Inspection, target: Path, **options: object) -> None:
        assert gate.wait(10)
        drawn.append(target.name)

    monkeypatch.setattr(stream, "draw", slow)
    monkeypatch.setattr(stream, "_DRAWN_AHEAD", 3)
    with stream._Drawer(tmp_path, patient=False) as live:
        for sequence in range(10):
            answer = anomalous()
            answer.sequence = sequence
            live.take(FrameResult(answer, b"", 0.0))
        assert live.skipped == 7
        gate.set()
    assert drawn == [f"{number:08}.png" for number in range(3)]

    drawn.clear()
    gate.clear()
    threading.Timer(0.1, gate.set).start()
    with stream._Drawer(tmp_path, patient=True) as patient:
        for sequence in range(10):
            answer = anomalous()
            answer.sequence = sequence
            patient.take(FrameResult(answer, b"", 0.0))
    assert len(drawn) == 10
    assert patient.skipped == 0


def test_a_folder_that_cannot_be_written_is_said(
    run: Run, fake: "Fake", folder: Path, tmp_path: Path
) -> None:
    fake.streams = [[anomalous(8)]]
    (tmp_path / "found").write_text("a file")
    result = run(folder / "test", "--save", tmp_path / "found")
    assert result.exit_code != 0
    assert "cannot write" in result.stderr
