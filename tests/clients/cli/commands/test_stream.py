# SPDX-License-Identifier: Apache-2.0
import _thread
import json
import re
import threading
import time
from pathlib import Path

import grpc
import pytest
from tests.support.cli import Run, run_against
from tests.support.fake_server import CallError, FakeServer, picture, write_dataset_folder

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, AnomalyMap


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
    assert result.exit_code == 7, "a frame was refused"
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
    train = folder / "train/good"
    for name in ("000.png", "002.png"):
        assert f"blemish: refused: {train / name}: not an image" in lines
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


def test_anomalous_frames_are_saved_with_their_answer(
    run: Run, fake: FakeServer, folder: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "found"
    for _ in range(2):
        fake.streams = [[None, anomalous(8)]]
        result = run(folder / "test", "--camera", "line 1/left", "--save", saved, "--fail-on-anomaly")
        assert result.exit_code == 1, result.stderr
    names = sorted(file.name for file in saved.iterdir())
    assert len(names) == 4, "the second run overwrites nothing"
    stem = r"line-1-left_\d{8}T\d{6}\.\d{3}Z_00000001_anomalous(_2)?"
    assert all(re.fullmatch(stem + r"\.(png|json)", name) for name in names)
    answer = json.loads(next(saved.glob("*.json")).read_text())
    assert (answer["verdict"], answer["score"], answer["sequence"]) == ("anomalous", 9.0, 1)
    assert answer["image"] == str(folder / "test/good/000.png")
    assert (saved / answer["picture"]).stat().st_size > 100


def test_missing_source_is_bad_input(run: Run, tmp_path: Path) -> None:
    result = run(tmp_path / "nothing")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


def test_rejected_stream_sets_the_exit_code(run: Run, fake: FakeServer, folder: Path) -> None:
    fake.errors["ScoreStream"] = [CallError(grpc.StatusCode.NOT_FOUND, "no such model", "NOT_FOUND")]
    result = run(folder / "test")
    assert result.exit_code == 3
    assert "no such model" in result.stderr


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


def test_summary_is_printed_if_the_server_stays_away(fake: FakeServer, folder: Path) -> None:
    run = run_against("127.0.0.1:1")
    result = run("stream", folder / "test", "-m", "m", "--give-up-after", "3")
    assert result.exit_code == 4
    assert "NOT INSPECTING, server unreachable for" in result.stderr
    assert "cannot connect to 127.0.0.1:1" in result.stderr
    assert re.search(r"not inspecting for \d+ s in 1 outage", result.stdout)


def test_summary_is_printed_before_the_error_of_a_stream(run: Run, fake: FakeServer, folder: Path) -> None:
    fake.streams = [[None, CallError(grpc.StatusCode.NOT_FOUND, "the model was deleted", "NOT_FOUND")]]
    result = run(folder / "train")
    assert result.exit_code == 3
    assert "the model was deleted" in result.stderr
    assert "frames/s" in result.stdout


def test_json_names_the_file_and_ends_with_7_if_frames_were_refused(
    run: Run, fake: FakeServer, folder: Path
) -> None:
    refused = pb.ScoreStreamResponse(refusal=pb.FrameRefusal(code=3, message="not an image"))
    fake.streams = [[None, refused]]
    result = run(folder / "train", "--json")
    assert result.exit_code == 7
    files = [json.loads(line)["image"] for line in result.stdout.splitlines()]
    assert files == [str(folder / "train/good" / name) for name in ("000.png", "001.PNG", "002.png")]


def interrupt_after(fake: FakeServer, frames: int) -> None:
    """Press Ctrl-C once the server has received a number of frames, in another thread."""

    def wait() -> None:
        end_s = time.monotonic() + 20
        while len(fake.frames) < frames and time.monotonic() < end_s:
            time.sleep(0.05)
        time.sleep(0.5)
        _thread.interrupt_main()

    threading.Thread(target=wait, daemon=True).start()


def test_watch_scores_each_file_once_over_restarts_and_names_it(
    run: Run, fake: FakeServer, folder: Path, tmp_path: Path
) -> None:
    options = ("--watch", "--state", tmp_path / "state/seen.jsonl", "--save", folder / "found")
    names = ("train/good/000.png", "train/good/001.PNG", "train/good/002.png")
    images = {str(folder / name) for name in (*names, "test/good/000.png", "test/crack/000.png")}
    fake.streams = [[anomalous(8)]]
    interrupt_after(fake, len(images))
    first = run(folder, *options)
    assert first.exit_code == 0, first.stderr
    assert len(fake.frames) == len(images), "neither masks nor what it saved"
    assert {name for name in first.stdout.split() if name.lower().endswith(".png")} == images
    renamed = folder / "train/good/000.png"
    renamed.rename(renamed.with_name("checked.png"))
    (folder / "new.png").write_bytes(picture(16))
    interrupt_after(fake, len(images) + 1)
    second = run(folder, *options)
    assert f"{len(images)} files were scored before" in second.stderr
    assert len(fake.frames) == len(images) + 1
    assert str(folder / "new.png") in second.stdout


def test_watch_refuses_what_is_no_folder(run: Run, folder: Path) -> None:
    result = run(folder / "train/good/000.png", "--watch")
    assert result.exit_code == 2
    assert "is not a folder" in result.stderr
