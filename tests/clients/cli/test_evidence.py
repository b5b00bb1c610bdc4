# SPDX-License-Identifier: Apache-2.0
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, Image
from blemish.v1.inspection_pb2 import Inspection, ScoreStreamResponse
from blemish_client import FrameResult
from blemish_client.cli.evidence import EvidenceFiles, EvidenceWriter, file_stem
from blemish_client.cli.failures import Failure

ITEM = "6f1c2b1e-8f0a-4b7e-9d53-0a4c1f1c7a52"


def make_result(sequence: int = 12, camera: str = "left", item: str = "") -> FrameResult:
    answer = ScoreStreamResponse(camera=camera, sequence=sequence)
    answer.capture_time.FromJsonString("2026-12-02T06:00:00.123Z")
    answer.inspection.CopyFrom(Inspection(score=9.0, verdict=VERDICT_ANOMALOUS, item=item))
    return FrameResult(answer, Image(), 0.01, ("line/a.png",))


def draw(content: Image, inspection: Inspection, target: Path, **options: object) -> None:
    target.write_bytes(b"png")


def test_name_has_camera_time_sequence_verdict_and_item() -> None:
    assert file_stem(make_result()) == "left_20261202T060000.123Z_00000012_anomalous"
    assert file_stem(make_result(item=f"items/{ITEM}")).endswith(f"_anomalous_{ITEM}")


@pytest.mark.parametrize(
    ("camera", "name"),
    [
        ("rtsp://10.0.0.4/stream 1", "rtsp-10.0.0.4-stream-1"),
        ("../..", "camera"),
        ("", "camera"),
        ("Tür 3", "Tür-3"),
        ("x" * 128, "x" * 64),
        ("線" * 128, "線" * 21),
    ],
)
def test_any_name_of_a_camera_is_part_of_a_file_name(tmp_path: Path, camera: str, name: str) -> None:
    result = make_result(camera=camera)
    assert file_stem(result).startswith(f"{name}_2026")
    assert EvidenceFiles.create(tmp_path, result).picture.parent == tmp_path


def test_nothing_is_overwritten_by_writers_at_once(tmp_path: Path) -> None:
    foreign = tmp_path / "left_20261202T060000.123Z_00000012_anomalous.png"
    foreign.write_bytes(b"foreign")

    def write(_: int) -> None:
        with EvidenceWriter(tmp_path, wait=True, draw_map=draw) as writer:
            for _ in range(5):
                writer.add(make_result())

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    assert foreign.read_bytes() == b"foreign"
    answers = sorted(tmp_path.glob("*.json"))
    assert len(answers) == 20
    pictures = {json.loads(file.read_text())["picture"] for file in answers}
    assert len(pictures) == 20
    assert all((tmp_path / name).read_bytes() == b"png" for name in pictures)


def test_answer_is_whole_and_names_the_file(tmp_path: Path) -> None:
    with EvidenceWriter(tmp_path, wait=True, draw_map=draw) as writer:
        writer.add(make_result(item=f"items/{ITEM}"))
    (file,) = tmp_path.glob("*.json")
    answer = json.loads(file.read_text())
    assert answer["image"] == "line/a.png"
    assert answer["item"] == f"items/{ITEM}"
    assert (answer["verdict"], answer["score"], answer["sequence"]) == ("anomalous", 9.0, 12)
    assert answer["capture_time"] == "2026-12-02T06:00:00.123Z"


@pytest.mark.parametrize(("wait", "drawn_frames"), [(False, 3), (True, 10)])
def test_full_drawing_queue_blocks_or_leaves_out_pictures(
    tmp_path: Path, *, wait: bool, drawn_frames: int
) -> None:
    gate = threading.Event()

    def draw_slowly(content: Image, inspection: Inspection, target: Path, **options: object) -> None:
        assert gate.wait(10)
        target.write_bytes(b"png")

    if wait:
        threading.Timer(0.1, gate.set).start()
    with EvidenceWriter(tmp_path, wait=wait, max_queued=3, draw_map=draw_slowly) as writer:
        for sequence in range(10):
            writer.add(make_result(sequence))
        gate.set()
    assert len(list(tmp_path.glob("*.png"))) == drawn_frames
    assert len(list(tmp_path.glob("*.json"))) == 10
    assert writer.skipped == 10 - drawn_frames


def test_failed_drawing_is_raised_and_leaves_no_empty_picture(tmp_path: Path) -> None:
    def fail(content: Image, inspection: Inspection, target: Path, **options: object) -> None:
        raise Failure("cannot write")

    with (
        pytest.raises(Failure, match="cannot write"),
        EvidenceWriter(tmp_path, wait=True, draw_map=fail) as writer,
    ):
        writer.add(make_result())
    assert [file.suffix for file in tmp_path.iterdir()] == [".json"]
