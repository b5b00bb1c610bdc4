# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from PIL import Image
from tests.support.cli import Run
from tests.support.fake_server import CallError, FakeServer

from blemish.v1.search_pb2 import LABEL_CONFIRMED, LABEL_FALSE_ALARM, LABEL_GOOD, LABEL_NONE

REVIEW = ("review", "-m", "m")


@pytest.fixture(autouse=True)
def folder(fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder; the index has three frames of a night."""
    for number, item in enumerate(fake.hits):
        item.camera, item.score = "line-3", 30.0 - number
        item.time.FromDatetime(datetime(2026, 12, 1, 22, tzinfo=UTC) + timedelta(minutes=number))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def labelled(fake: FakeServer) -> list[tuple[str, int, str]]:
    return [(each.item, each.label, each.label_class) for each in fake.requests["LabelItem"]]


def test_each_frame_takes_one_line(run: Run, fake: FakeServer) -> None:
    result = run(
        *REVIEW, "--since", "2026-12-01T08:00Z", "--camera", "line-3", stdin="g\nf\n\nd hairline\n"
    )
    assert result.exit_code == 0, result.stderr
    assert labelled(fake) == [
        ("items/1", LABEL_GOOD, ""),
        ("items/2", LABEL_FALSE_ALARM, ""),
        ("items/3", LABEL_CONFIRMED, "hairline"),
    ]
    assert all(each.expected_label == LABEL_NONE for each in fake.requests["LabelItem"])
    queue = next(each for each in fake.requests["ListItems"] if each.order_by)
    assert queue.order_by == "time desc"
    assert queue.where.startswith('camera = "line-3" AND time >= 2026-12-01')
    assert queue.where.endswith("AND verdict = anomalous AND label = none AND source = camera")
    night = datetime(2026, 12, 1, 22, tzinfo=UTC).astimezone()
    assert f"1 of 3  {night:%Y-%m-%d %H:%M:%S}  line-3  score 30.000, threshold 24.500  most like" in (
        result.stdout
    )
    assert "3: confirmed hairline (a new class; b takes it back)" in result.stdout
    assert "3 of 3 frames labelled: 1 good, 1 false-alarm, 1 confirmed hairline\n" in result.stdout


def test_words_and_the_last_class_are_answers_too(run: Run, fake: FakeServer) -> None:
    result = run(*REVIEW, "--no-sheet", stdin="defect glue strip\nD\nSkip\n")
    assert [each[1:] for each in labelled(fake)] == 2 * [(LABEL_CONFIRMED, "glue strip")]
    assert "2 of 3 frames labelled: 2 confirmed glue strip; 1 skipped" in result.stdout


def test_defect_may_have_no_class(run: Run, fake: FakeServer) -> None:
    run(*REVIEW, "--no-sheet", stdin="d\n")
    assert labelled(fake) == [("items/1", LABEL_CONFIRMED, "")]


def test_back_removes_the_label_of_the_frame_before(run: Run, fake: FakeServer) -> None:
    result = run(*REVIEW, "--no-sheet", stdin="b\nd dent\nb\nf\ns\nb\ng\ng\nb\nq\n")
    assert "this is the first frame" in result.stdout
    assert "1: confirmed dent removed" in result.stdout
    assert labelled(fake) == [
        ("items/1", LABEL_CONFIRMED, "dent"),
        ("items/1", LABEL_NONE, ""),
        ("items/1", LABEL_FALSE_ALARM, ""),
        ("items/2", LABEL_GOOD, ""),
        ("items/3", LABEL_GOOD, ""),
        ("items/3", LABEL_NONE, ""),
    ]
    removal = fake.requests["LabelItem"][1]
    assert (removal.expected_label, removal.expected_label_class) == (LABEL_CONFIRMED, "dent")
    assert "2 of 3 frames labelled: 1 false-alarm, 1 good; 1 not reviewed" in result.stdout


def test_label_of_another_person_stays_until_it_is_replaced_on_purpose(run: Run, fake: FakeServer) -> None:
    fake.labels["items/1"] = LABEL_FALSE_ALARM
    kept = run(*REVIEW, "--no-sheet", stdin="g\ng\n")
    assert kept.exit_code == 0
    assert "not labelled: items/1 is labelled" in kept.stdout
    assert fake.labels["items/1"] == LABEL_FALSE_ALARM
    assert "1 of 3 frames labelled: 1 good; 1 labelled by others; 1 not reviewed" in kept.stdout
    run(*REVIEW, "--no-sheet", stdin="g\nb\ng\n")
    assert fake.labels["items/1"] == LABEL_GOOD


def test_line_that_is_not_an_answer_ends_a_piped_review(run: Run, fake: FakeServer) -> None:
    for line in ("good or not", "x", "g scratch"):
        result = run(*REVIEW, "--no-sheet", stdin=f"g\n{line}\nf\n")
        assert result.exit_code == 2
        assert f"'{line}' is not an answer; use g good" in result.stderr
        assert "1 of 3 frames labelled" in result.stdout
    assert all(each[0] == "items/1" for each in labelled(fake))


def test_labels_given_before_the_server_failed_are_counted(run: Run, fake: FakeServer) -> None:
    gone = CallError(grpc.StatusCode.UNAVAILABLE, "the server is gone", detailed=False)
    fake.errors["Search"] = [CallError(grpc.StatusCode.NOT_FOUND), *10 * [gone]]
    failed = run(*REVIEW, "--no-sheet", stdin="g\ng\n")
    assert failed.exit_code == 4
    assert "labels given so far are stored, and the same command goes on" in failed.stderr
    assert "1 of 3 frames labelled: 1 good; 2 not reviewed" in failed.stdout


def test_removed_frame_is_left_out(run: Run, fake: FakeServer) -> None:
    fake.errors["LabelItem"] = [CallError(grpc.StatusCode.NOT_FOUND, "the index has no item 1")]
    result = run(*REVIEW, "--no-sheet", stdin="g\ng\n")
    assert "not labelled: the index has no item 1" in result.stdout
    assert "1 of 3 frames labelled: 1 good; 1 skipped" in result.stdout


def test_frames_are_ordered_and_limited(run: Run, fake: FakeServer) -> None:
    run(*REVIEW, "--no-sheet", "--order", "score", "-n", "1")
    assert "score desc" in [each.order_by for each in fake.requests["ListItems"]]
    shown = run(*REVIEW, "--no-sheet", "--sort", "least-certain", "-n", "1").stdout
    assert "1 of 3 frames; run the command again for the others" in shown
    assert "1 of 1" in shown
    assert "score 28.000" in shown  # the threshold is 24.5


def test_contact_sheet_has_all_frames_and_overwrites_nothing(run: Run, folder: Path) -> None:
    for name in ("night.png", "night_2.png"):
        assert f"contact sheet: out/{name}" in run(*REVIEW, "--sheet", "out/night.png").stdout
    with Image.open(folder / "out/night_2.png") as sheet:
        assert sheet.width > 3 * 240
    shown = run(*REVIEW).stdout
    (file,) = folder.glob("review-m-*.png")
    assert f"contact sheet: {file.name}" in shown


def test_sheet_goes_into_a_folder_and_is_a_png(run: Run, folder: Path) -> None:
    (folder / "sheets").mkdir()
    run(*REVIEW, "--sheet", "sheets")
    assert [each.suffix for each in (folder / "sheets").iterdir()] == [".png"]
    refused = run(*REVIEW, "--sheet", "night.jpg")
    assert refused.exit_code == 2
    assert "--sheet is night.jpg; use a folder, or a file whose name ends with .png" in refused.stderr


def test_sheet_of_many_frames_has_pages(run: Run, fake: FakeServer, folder: Path) -> None:
    fake.hits.extend([*fake.hits] * 10)
    run(*REVIEW, "--sheet", "night.png")
    assert {each.name for each in folder.glob("*.png")} == {"night.png", "night-page2.png"}


def test_sheet_that_cannot_be_written_is_reported(run: Run, folder: Path) -> None:
    (folder / "file").touch()
    result = run(*REVIEW, "--sheet", "file/night.png", stdin="g\n")
    assert result.exit_code == 2
    assert "cannot write file/night.png" in result.stderr
    assert "--no-sheet" in result.stderr


def test_picture_of_a_frame_is_written(run: Run, folder: Path) -> None:
    shown = run(*REVIEW, "--no-sheet", stdin="o\no\n").stdout
    names = sorted(each.name for each in folder.glob("*.png"))
    assert len(names) == 2
    assert names[1].endswith("_anomalous_1_2.png")
    assert f"picture: {names[0]}" in shown


def test_empty_queue_ends_at_once(run: Run, fake: FakeServer, folder: Path) -> None:
    fake.hits.clear()
    result = run(*REVIEW)
    assert (result.exit_code, "nothing to review" in result.stdout) == (0, True)
    assert not list(folder.iterdir())


def test_sheet_and_no_sheet_exclude_each_other(run: Run) -> None:
    assert run(*REVIEW, "--sheet", "a.png", "--no-sheet").exit_code == 2


def test_terminal_asks_again_and_offers_to_go_back(target: str, fake: FakeServer) -> None:
    keyboard, terminal = os.openpty()
    os.write(keyboard, b"x\n\nd dent\ns\nd\nb\ng\n\n")
    command = [sys.executable, "-m", "blemish_client.cli", "--server", target, *REVIEW, "--no-sheet"]
    ended = subprocess.run(command, stdin=terminal, capture_output=True, text=True, timeout=60)
    os.close(keyboard)
    os.close(terminal)
    assert ended.returncode == 0, ended.stderr
    assert "'x' is not an answer" in ended.stdout
    assert "d = dent > " in ended.stdout
    assert "all frames are reviewed; Enter ends, b goes back" in ended.stdout
    assert "2 of 3 frames labelled: 1 confirmed dent, 1 good; 1 skipped" in ended.stdout
    assert labelled(fake)[-1] == ("items/3", LABEL_GOOD, "")
