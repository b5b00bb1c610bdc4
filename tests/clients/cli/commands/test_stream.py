# SPDX-License-Identifier: Apache-2.0
import json
import threading
from pathlib import Path

import grpc
import pytest
from tests.support.cli import Run, run_against
from tests.support.fake_server import CallError, FakeServer, write_dataset_folder

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, AnomalyMap, Image
from blemish_client import FrameResult
from blemish_client.cli.commands.stream import AnomalyDrawer


@pytest.fixture
def run(target: str) -> Run:
    """Return a function that runs ``blemish stream`` with a model."""
    run = run_against(target)
    return lambda *arguments: run("stream", *arguments, "-m", "m")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of six images, one of them a mask."""
    write_dataset_folder(tmp_path / "line")
    return tmp_path / "line"


def anomalous(map_side: int = 0) -> pb.ScoreStreamResponse:
    answer = pb.ScoreStreamResponse(inspection=pb.Inspection(score=9.0, verdict=VERDICT_ANOMALOUS))
    if map_side:
        values = b"\0\0\0\0" * map_side**2
        answer.inspection.anomaly_map.CopyFrom(AnomalyMap(width=map_side, height=map_side, values=values))
    return answer


def test_summary_counts_results(run: Run, fake: FakeServer, folder: Path) -> None:
    refused = pb.ScoreStreamResponse(refusal=pb.FrameRefusal(code=3, message="not an image"))
    fake.streams = [[anomalous(), refused]]
    result = run(folder / "test")
    assert result.exit_code == 0
    names, figures = (line.split() for line in result.stdout.splitlines() if line.strip(" ─"))
    assert names[-5:] == ["normal", "anomalous", "dropped", "refused", "lost"]
    assert figures[-5:] == ["0", "1", "0", "1", "0"]
    (config,) = fake.requests["ScoreStream"]
    assert config.policy == pb.STREAM_POLICY_BLOCK  # the default for files
    assert not config.outputs.anomaly_map


def test_reasons_of_refusals_and_notes_stay_after_the_stream(
    run: Run, fake: FakeServer, folder: Path
) -> None:
    refused = pb.ScoreStreamResponse(refusal=pb.FrameRefusal(code=3, message="not an image"))
    noted = anomalous()
    noted.inspection.notes.append("the frame is 20 x 10 px")
    fake.streams = [[refused, noted, refused]]
    lines = run(folder / "train").stderr.splitlines()
    assert "blemish: refused: not an image (2 times)" in lines
    assert "blemish: note: the frame is 20 x 10 px" in lines


def test_json_has_one_object_per_frame(run: Run, folder: Path) -> None:
    result = run(folder / "train", "--json", "--camera", "left", "--policy", "latest")
    results = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(one["camera"], one["sequence"]) for one in results] == [("left", n) for n in range(3)]
    assert all(one["latency_ms"] > 0 for one in results)


def test_json_of_a_frame_has_the_fields_of_a_score(run: Run, fake: FakeServer, folder: Path) -> None:
    refusal = pb.FrameRefusal(code=3, message="not an image", reason="INVALID_IMAGE")
    dropped = pb.ScoreStreamResponse(dropped=pb.DroppedFrames(last_sequence=2))
    fake.streams = [[anomalous(8), pb.ScoreStreamResponse(refusal=refusal), dropped]]
    result = run(folder / "train", "--json")
    found, refused, skipped = (json.loads(line) for line in result.stdout.splitlines())
    assert (found["verdict"], found["score"], found["sequence"]) == ("anomalous", 9.0, 0)
    assert "anomaly_map" not in found
    assert (refused["error"], refused["reason"], refused["code"]) == ("not an image", "INVALID_IMAGE", 3)
    assert "verdict" not in refused
    assert (skipped["dropped"], skipped["last_sequence"]) == (1, 2)


def test_settings_reach_the_server(run: Run, fake: FakeServer, folder: Path) -> None:
    given = ("--policy", "reject", "--max-latency-ms", "250", "--target-false-reject-rate", "0.01")
    assert run(folder / "test", *given).exit_code == 0
    (config,) = fake.requests["ScoreStream"]
    assert config.policy == pb.STREAM_POLICY_REJECT
    assert config.max_latency.ToMilliseconds() == 250
    assert config.target_false_reject_rate == 0.01


def test_anomalous_frames_are_drawn(run: Run, fake: FakeServer, folder: Path, tmp_path: Path) -> None:
    fake.streams = [[None, anomalous(8)]]
    result = run(folder / "test", "--save", tmp_path / "found", "--fail-on-anomaly")
    assert result.exit_code == 1
    assert [file.name for file in (tmp_path / "found").iterdir()] == ["00000001.png"]


def test_missing_source_is_bad_input(run: Run, tmp_path: Path) -> None:
    result = run(tmp_path / "nothing")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


def test_rejected_stream_sets_the_exit_code(run: Run, fake: FakeServer, folder: Path) -> None:
    fake.errors["ScoreStream"] = [CallError(grpc.StatusCode.NOT_FOUND, "no such model", "NOT_FOUND")]
    result = run(folder / "test")
    assert result.exit_code == 3
    assert "no such model" in result.stderr


@pytest.mark.parametrize(("wait", "drawn_frames"), [(False, 3), (True, 10)])
def test_full_drawing_queue_blocks_or_skips_frames(
    tmp_path: Path, *, wait: bool, drawn_frames: int
) -> None:
    gate, drawn = threading.Event(), []

    def draw_slowly(content: Image, inspection: pb.Inspection, target: Path, **options: object) -> None:
        assert gate.wait(10)
        drawn.append(target.name)

    if wait:
        threading.Timer(0.1, gate.set).start()
    with AnomalyDrawer(tmp_path, wait=wait, max_queued=3, draw_map=draw_slowly) as drawer:
        for sequence in range(10):
            answer = anomalous()
            answer.sequence = sequence
            drawer.add(FrameResult(answer, Image(), 0.0))
        gate.set()
    assert drawn == [f"{number:08}.png" for number in range(drawn_frames)]
    assert drawer.skipped == 10 - drawn_frames


def test_unwritable_folder_is_reported(run: Run, fake: FakeServer, folder: Path, tmp_path: Path) -> None:
    fake.streams = [[anomalous(8)]]
    (tmp_path / "found").write_text("a file")
    result = run(folder / "test", "--save", tmp_path / "found")
    assert result.exit_code != 0
    assert "cannot write" in result.stderr


def test_summary_counts_frames_of_each_defect_class(run: Run, fake: FakeServer, folder: Path) -> None:
    named, unknown = anomalous(), anomalous()
    named.inspection.defect_class.CopyFrom(fake.defect_class)
    unknown.inspection.defect_class.consensus = pb.CONSENSUS_DISTANT
    fake.streams = [[named, unknown]]
    result = run(folder / "test", "--defect-class")
    assert result.exit_code == 0
    (config,) = fake.requests["ScoreStream"]
    assert config.outputs.defect_class
    *_, names, figures = (line.split() for line in result.stdout.splitlines() if line.strip(" ─"))
    assert (names, figures) == (["class", "frames"], ["crack", "1"])


def test_dumps_of_raw_samples_are_frames(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.dump").write_bytes(bytes(24))
    result = run(tmp_path, "--raw", "Mono8:6x4", "--region", "0,0,2,2", "--json")
    assert result.exit_code == 0, result.stderr
    assert len(fake.frames) == 3
